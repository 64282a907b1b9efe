#!/bin/sh
# demo-text.sh DIR: real English prose for the demo, as DIR/text/train.txt and DIR/text/valid.txt.
# Downloads documentation and books that Debian and Ubuntu package (about 22 MB), unpacks them under DIR without installing
# anything (no root needed, and slim images that drop /usr/share/doc do not matter), and keeps their prose.
# Does nothing when the text is there; an interrupted run is simply started again.
set -eu

# Novels of Jane Austen, Moby Dick, the Jargon File, a dictionary of computing, four manuals. scripts/prose.pl reads each.
packages='r-cran-janeaustenr r-cran-tokenizers jargon-text dict-foldoc perl-doc postgresql-doc apache2-doc exim4-doc-html git-doc'

dir=${1:?usage: demo-text.sh DIR}
scripts=$(cd "$(dirname "$0")" && pwd)
if [ -f "$dir/text/train.txt" ] && [ -f "$dir/text/valid.txt" ]; then
  exit 0
fi
for tool in apt-get dpkg-deb perl; do
  if ! command -v $tool > /dev/null; then
    echo "demo text: $tool is missing; the demo takes its text from packages of Debian or Ubuntu and runs on these only." >&2
    exit 2
  fi
done

echo 'Preparing English text from distribution packages:'
mkdir -p "$dir/packages" "$dir/lists/partial" "$dir/unpacked" "$dir/text"
packages_dir=$(cd "$dir/packages" && pwd)
lists_dir=$(cd "$dir/lists" && pwd)
private_lists=

# apt with package lists of our own once the system's are known to be absent or stale: refreshing those would need root.
apt() {
  command=$1
  shift
  if [ -n "$private_lists" ]; then
    "apt-$command" -q -o APT::Sandbox::User=root -o Dir::State::Lists="$lists_dir" -o Dir::Cache="$packages_dir" \
      -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
  else
    "apt-$command" -q -o APT::Sandbox::User=root "$@"
  fi
}

# The package's name in this release: postgresql-doc only points to the versioned one.
name_of() {
  if [ "$1" = postgresql-doc ]; then
    apt cache pkgnames postgresql-doc- | grep -x 'postgresql-doc-[0-9]*' | sort -t- -k3n | tail -n 1
  else
    echo "$1"
  fi
}

# fetch PACKAGE: unpacks it to DIR/unpacked/PACKAGE.
fetch() {
  name=$(name_of "$1")
  [ -n "$name" ] || return 1
  rm -f "$packages_dir/$name"_*.deb
  (cd "$packages_dir" && apt get download "$name" > download.log 2>&1) || return 1
  rm -rf "$dir/unpacked/$1.part"
  dpkg-deb -x "$packages_dir/$name"_*.deb "$dir/unpacked/$1.part" || return 1
  mv "$dir/unpacked/$1.part" "$dir/unpacked/$1"
  rm -f "$packages_dir/$name"_*.deb
}

for package in $packages; do
  if [ -d "$dir/unpacked/$package" ] || fetch "$package"; then
    continue
  fi
  if [ -z "$private_lists" ]; then
    private_lists=yes
    apt get update > "$packages_dir/update.log" 2>&1 || true
    fetch "$package" && continue
  fi
  echo "  $package: not available from this system's package sources, going on without it"
done

perl "$scripts/prose.pl" "$dir/unpacked" "$dir/text"
rm -rf "$dir/packages" "$dir/lists" "$dir/unpacked"
