#!/bin/sh
# A front end of apt for Dockerfiles written for Amazon Linux and Fedora: `dnf install -y python3 python3-pip && dnf clean all`.
# It knows the commands below and maps package names to Debian's; what comes is Debian's packages, not RPMs.
# docs/IMAGES.md has the list. Also called as microdnf and yum.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }
fail() { printf 'dnf (front end of apt on the managed base): %s\n' "$*" >&2; exit 1; }

# Debian's packages for one name of Fedora's; nothing for what has no counterpart and needs none.
debian_names() {
  case $1 in
    python3-devel) say python3-dev ;;
    python3-libs|python3-unversioned-command|system-release|dnf-plugins-core|dnf|microdnf|yum) ;;
    glibc-langpack-*|glibc-minimal-langpack|coreutils-single|epel-release|ca-certificates-bundle) ;;
    gcc-c++) say g++ ;;
    @development-tools|@Development*) say build-essential ;;
    nodejs-npm|nodejs[0-9][0-9]-npm|npm) say npm ;;
    nodejs[0-9][0-9]|nodejs) say nodejs ;;
    golang) say golang-go ;;
    shadow-utils) say passwd login ;;
    procps-ng) say procps ;;
    iputils) say iputils-ping ;;
    which) say debianutils ;;
    xz) say xz-utils ;;
    curl-minimal) say curl ;;
    libcurl|libcurl-minimal) say libcurl4t64 ;;
    vim-minimal) say vim-tiny ;;
    vim-enhanced) say vim ;;
    iproute) say iproute2 ;;
    bind-utils) say dnsutils ;;
    nmap-ncat|nc) say netcat-openbsd ;;
    openssh-clients) say openssh-client ;;
    glibc-devel) say libc6-dev ;;
    openssl-devel) say libssl-dev ;;
    openssl-libs) say libssl3t64 ;;
    libffi-devel) say libffi-dev ;;
    zlib-devel) say zlib1g-dev ;;
    bzip2-devel) say libbz2-dev ;;
    sqlite-devel) say libsqlite3-dev ;;
    sqlite) say sqlite3 ;;
    libxml2-devel) say libxml2-dev ;;
    libxslt-devel) say libxslt1-dev ;;
    libjpeg-turbo-devel) say libjpeg-dev ;;
    libpq-devel|postgresql-devel) say libpq-dev ;;
    postgresql1[0-9]) say postgresql-client ;;
    mariadb[0-9]*|mariadb) say mariadb-client ;;
    redis6|redis) say redis-server ;;
    httpd) say apache2 ;;
    ImageMagick) say imagemagick ;;
    java-*-amazon-corretto*|java-*-openjdk*) say default-jre-headless ;;
    python3.[0-9]*)
      version=${1#python}; version=${version%%-*}
      own=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
      [ "$version" = "$own" ] || fail "there is no $1 on Debian's release of this base: its Python is $own (write python3)"
      debian_names "python3${1#python"$version"}" ;;
    *) say "$1" ;;
  esac
}

# All that are there already need neither network nor package lists.
installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

refresh() {
  [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -newermt '-1 day' 2>/dev/null)" ] || apt-get -qq update
}

wanted() {
  for name in "$@"; do
    case $name in
      /*|*.rpm|http://*|https://*) fail "cannot install $name: only packages by name, which come from Debian" ;;
    esac
    debian_names "$name" || exit 1
  done
}

install_packages() {
  [ $# -gt 0 ] || fail 'install needs package names'
  names=$(wanted "$@") || exit 1
  missing=
  for name in $names; do
    if installed "$name"; then say "Package $name is already installed."; else missing="$missing $name"; fi
  done
  if [ -z "$missing" ]; then say 'Nothing to do.'; say 'Complete!'; return; fi
  say "Installing Debian's$missing"
  refresh
  # shellcheck disable=SC2086 # words
  apt-get -qq install -y --no-install-recommends $missing || fail "Debian has no$missing, or its mirror cannot be reached"
  say 'Complete!'
}

command=
count=$#
while [ "$count" -gt 0 ]; do
  word=$1; shift; count=$((count - 1))
  case $word in
    --version) say '4.0 (Rekindle: a front end of apt)'; exit 0 ;;
    --help|-h) command=help ;;
    # Those with a word of their own.
    -c|--config|--installroot|--releasever|--repo|--repoid|--enablerepo|--disablerepo|-x|--exclude|--setopt)
      [ "$word" != --installroot ] || fail '--installroot is not supported'
      [ "$count" -gt 0 ] || fail "$word needs a value"
      shift; count=$((count - 1)) ;;
    --installroot=*) fail '--installroot is not supported' ;;
    -*) ;;
    *) if [ -z "$command" ]; then command=$word; else set -- "$@" "$word"; fi ;;
  esac
done

case $command in
  install|in|reinstall) install_packages "$@" ;;
  groupinstall) install_packages @development-tools ;;
  group)
    [ "${1:-}" = install ] || fail "group ${1:-} is not supported"
    install_packages @development-tools ;;
  remove|erase|autoremove)
    names=$(wanted "$@") || exit 1
    # shellcheck disable=SC2086 # words
    apt-get -qq -y autoremove $names
    say 'Complete!' ;;
  # The base stays the one its digest names, as with --releasever on Amazon Linux.
  update|upgrade|distro-sync|check-update)
    [ $# -eq 0 ] || install_packages "$@"
    say 'Nothing to do.'; say 'Complete!' ;;
  makecache) refresh; say 'Metadata cache created.' ;;
  clean) apt-get clean; rm -rf /var/lib/apt/lists/*; say '0 files removed' ;;
  list) dpkg-query -W ;;
  search) refresh; apt-cache search "$@" ;;
  info) refresh; apt-cache show "$@" ;;
  help|'') say 'usage: dnf install|remove|clean|makecache|list|search|info [-y] [packages…]  (a front end of apt)' ;;
  *) fail "$command is not supported; use apt-get" ;;
esac
