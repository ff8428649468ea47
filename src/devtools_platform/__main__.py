"""`python -m devtools_platform` is the `dev-tools` command."""

from devtools_platform.cli.main import main

main()
