#!/bin/sh
# Makes the databases beside this file and what rpm itself says of them; with rpm (4.18.0), gpg, python3 and db5.3-util of
# Debian 12: sh make.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'gpgconf --kill gpg-agent; rm -rf "$work"' EXIT
export GNUPGHOME="$work/gnupg"

build() { rpmbuild -bb --quiet --define "_topdir $work/top" --define '_build_name_fmt %%{NAME}.rpm' "$work/spec"; }

# spec NAME VERSION RELEASE [LINE…]
spec() {
  name=$1 version=$2 release=$3
  shift 3
  {
    printf 'Name: %s\nVersion: %s\nRelease: %s\nSummary: A package\nLicense: MIT\n' "$name" "$version" "$release"
    printf '%s\n' "$@"
    printf '%%description\n'
    # Longer than several pages, and before the architecture in the header.
    [ "$name" != long ] || seq -f 'Line %g of a description that does not fit on a page.' 300
    printf '%%files\n'
  } > "$work/spec"
  build
}

spec plain 1.0 1.amzn2023 'BuildArch: noarch'
spec long 2.5~rc1 3.el9 'BuildArch: noarch'
spec withepoch 4.2 7.fc41 'Epoch: 2' 'BuildArch: noarch'
spec zeroepoch 1 1 'Epoch: 0' 'BuildArch: noarch'
spec native 0.1^git20260101 2 ''
# So many that the table has interior pages.
{
  printf 'Name: many\nVersion: 1\nRelease: 1\nSummary: Many\nLicense: MIT\nBuildArch: noarch\n%%description\n'
  for n in $(seq 40); do printf '%%package %s\nSummary: One\n%%description %s\n%%files %s\n' "$n" "$n" "$n"; done
} > "$work/spec"
build

mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key fixture@example.invalid ed25519 sign never
gpg --export --armor > "$work/key"

root=$work/root
mkdir "$root"
in_root() { "$@" --root "$root" --define '_dbpath /db'; }
all() { in_root rpm -qa --qf '%{NAME} %{EVR} %{ARCH}\n' | LC_ALL=C sort; }
mv "$work/top/RPMS/native.rpm" "$work"
in_root rpm --force-debian -i --justdb --nodeps "$work"/top/RPMS/*.rpm
in_root rpmkeys --import "$work/key"
all > "$here/rpm-qa"

# While somebody reads, what rpm writes stays in the log beside the database.
mkfifo "$work/reading" "$work/done"
python3 - "$root/db/rpmdb.sqlite" "$work/reading" "$work/done" <<'END' &
import sqlite3, sys
database, reading, done = sys.argv[1:]
connection = sqlite3.connect(database, isolation_level=None)
connection.execute('BEGIN')
connection.execute('SELECT count(*) FROM Packages').fetchone()
open(reading, 'w').close()
open(done).close()
END
cat "$work/reading"
in_root rpm --force-debian -i --justdb --nodeps "$work/native.rpm"
in_root rpm -e --justdb many-7
all > "$here/rpm-qa.wal"
gzip -9n < "$root/db/rpmdb.sqlite" > "$here/rpmdb.sqlite.gz"
gzip -9n < "$root/db/rpmdb.sqlite-wal" > "$here/rpmdb.sqlite-wal.gz"
: > "$work/done"
wait

# Debian's rpm reads Berkeley DB but does not write it. Small headers lie beside their keys, others on pages of their own.
mkdir "$root/old"
python3 - "$root/db/rpmdb.sqlite" > "$work/dump" <<'END'
import sqlite3, struct, sys
print('VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize=8192\nHEADER=END')
some = 'SELECT hnum, blob FROM Packages WHERE hnum < 20 OR length(blob) > 1400 ORDER BY hnum'
rows = sqlite3.connect(sys.argv[1]).execute(some).fetchall()
for key, value in [(0, struct.pack('<I', rows[-1][0])), *rows]:
    print(f" {struct.pack('<I', key).hex()}\n {value.hex()}")
print('DATA=END')
END
db5.3_load -f "$work/dump" "$root/old/Packages"
rpm -qa --root "$root" --define '_dbpath /old' --define '_db_backend bdb_ro' --qf '%{NAME} %{EVR} %{ARCH}\n' |
  LC_ALL=C sort > "$here/rpm-qa.old"
gzip -9n < "$root/old/Packages" > "$here/Packages.gz"
