# Small words shared by the scripts. Sourced by bash, never run; the working directory is the top of the repository.

# shellcheck shell=bash

say() { printf '· %s\n' "$*" >&2; }
fail() { printf '✗ %s\n' "$*" >&2; exit 1; }

# Tenths of a second since some fixed moment, and how long ago such a moment was.
now() { local t=${EPOCHREALTIME/[.,]/}; printf %s $((t / 100000)); }
since() { local d=$(($(now) - $1)); printf '%d.%d s' $((d / 10)) $((d % 10)); }

# Where a program is. Debian keeps servers in sbin, which is not on everybody's path.
program() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" type -P "$1"; }

# Whether the node on the path is 20 or newer and has npm beside it: oidc-provider needs it. Debian 12's is 18.
node_is_new() {
  local major
  program npm >/dev/null && major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) && [ "$major" -ge 20 ]
}

# Where it is not, the one that scripts/peers/install fetched goes in front of it.
use_node() {
  if [ -x .test/nodejs/bin/node ] && ! node_is_new; then PATH="$PWD/.test/nodejs/bin:$PATH"; fi
}

# The folder with initdb and postgres, version 15 or newer, the newest first.
postgres_bin() {
  local dir version
  for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(program initdb || echo /)")"; do
    if [ ! -x "$dir/initdb" ] || [ ! -x "$dir/postgres" ]; then continue; fi
    version=$("$dir/postgres" --version | grep -oE '[0-9]+' | head -n 1)
    [ "$version" -ge 15 ] && { printf '%s\n' "$dir"; return 0; }
  done
  return 1
}

# Debian 12's own is 15; elsewhere, whatever the distribution has.
postgres_package() {
  if apt-cache show postgresql-15 >/dev/null 2>&1; then echo postgresql-15; else echo postgresql; fi
}
