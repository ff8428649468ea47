#!/bin/sh
# Prepares a droplet (Debian 12, Ubuntu 24.04) for releases of @APPLICATION@. Read it, then run it as root.
# It may be run again at any time: that is also how the host program and the keys are brought up to date.
set -eu

[ "$(id -u)" = 0 ] || { echo "Run this as root." >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive

echo "1/6 packages"
apt-get update -q
apt-get install -q -y --no-install-recommends ca-certificates curl openssl python3 sudo ufw unattended-upgrades
if ! command -v docker >/dev/null || ! docker compose version >/dev/null 2>&1; then
  . /etc/os-release
  install -m 0755 -d /etc/apt/keyrings
  curl -fsSL "https://download.docker.com/linux/$ID/gpg" -o /etc/apt/keyrings/docker.asc
  echo "deb [signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/linux/$ID $VERSION_CODENAME stable" \
    > /etc/apt/sources.list.d/docker.list
  apt-get update -q
  apt-get install -q -y docker-ce docker-ce-cli containerd.io docker-compose-plugin
fi

echo "2/6 security updates by themselves"
printf 'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\n' \
  > /etc/apt/apt.conf.d/20auto-upgrades

echo "3/6 the user that deploys: it can start the host program and nothing else"
id deploy >/dev/null 2>&1 || useradd --create-home --shell /bin/sh deploy
install -d -m 0700 -o deploy -g deploy /home/deploy/.ssh
printf 'restrict,command="sudo -n /usr/local/bin/dev-tools-host" %s\n' '@SSH_KEY@' > /home/deploy/.ssh/authorized_keys
chown deploy:deploy /home/deploy/.ssh/authorized_keys
chmod 0600 /home/deploy/.ssh/authorized_keys
printf 'deploy ALL=(root) NOPASSWD: /usr/local/bin/dev-tools-host\n' > /etc/sudoers.d/dev-tools
chmod 0440 /etc/sudoers.d/dev-tools
visudo -c -q -f /etc/sudoers.d/dev-tools

echo "4/6 the host program and the keys it trusts"
install -d -m 0755 /opt/dev-tools /etc/dev-tools /etc/dev-tools/keys /var/lib/dev-tools
base64 -d > /opt/dev-tools/host.pyz.next <<'PROGRAM'
@PROGRAM@
PROGRAM
chmod 0755 /opt/dev-tools/host.pyz.next
mv /opt/dev-tools/host.pyz.next /opt/dev-tools/host.pyz
printf '#!/bin/sh\nexec /usr/bin/python3 -I /opt/dev-tools/host.pyz /etc/dev-tools/host.json\n' > /usr/local/bin/dev-tools-host
chmod 0755 /usr/local/bin/dev-tools-host
cat > /etc/dev-tools/keys/release.pub <<'KEY'
@RELEASE_KEY@
KEY
[ -f /etc/dev-tools/app.env ] || install -m 0600 /dev/null /etc/dev-tools/app.env
# What every colour of the stack shares: its tokens, readable by the account that the containers run as.
install -d -m 0750 -o root -g 65534 /etc/dev-tools/secrets
for name in token secret; do
  [ -f "/etc/dev-tools/secrets/$name" ] || openssl rand -hex 32 > "/etc/dev-tools/secrets/$name"
  chown 65534:65534 "/etc/dev-tools/secrets/$name"
  chmod 0400 "/etc/dev-tools/secrets/$name"
done
[ -f /etc/dev-tools/host.json ] || cat > /etc/dev-tools/host.json <<'CONFIG'
{
  "application": "@APPLICATION@",
  "state_dir": "/var/lib/dev-tools",
  "keys_dir": "/etc/dev-tools/keys",
  "env_file": "/etc/dev-tools/app.env",
  "repositories": ["@REPOSITORIES@"],
  "watch_urls": ["http://127.0.0.1:2020/health"],
  "prometheus": "http://127.0.0.1:9090"
}
CONFIG

# The clones that tasks work in. A release uses this volume; it may not own one.
docker volume create @APPLICATION@-workspaces >/dev/null

echo "5/6 firewall: SSH and the public ports"
ufw --force default deny incoming
ufw allow OpenSSH
for port in @PORTS@; do ufw allow "$port"; done
ufw --force enable

echo "6/6 done; start the data services, Caddy and Prometheus with deploy/compose.data.yaml (docs/how-to/deploy.md), then:"
echo "    dev-tools host check"
