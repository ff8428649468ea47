"""What runs on a droplet: one program of the standard library only, a zip file that `dev-tools host bootstrap` ships.

A deployer's SSH key may start this program and nothing else (`command=` in `authorized_keys`). It trusts the keys
that lie on the droplet, not who calls it: what is not signed by one of them is refused before anything is pulled.
"""
