#!/bin/sh
# Finishes the managed base like the usual container images: no service starts, no syncs during dpkg, nothing of the
# building machine inside, apt usable with the mirror of this machine.
set -eu
root=$1

rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
mkdir -p "$root/etc/apt/sources.list.d"
printf '%s\n' "$REKINDLE_MIRROR_LINES" > "$root/etc/apt/sources.list.d/debian.list"

printf 'Acquire::Languages "none";\n' > "$root/etc/apt/apt.conf.d/no-languages"
printf 'APT::Keep-Downloaded-Packages "false";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n' \
  > "$root/etc/apt/apt.conf.d/no-cache"
printf 'force-unsafe-io\n' > "$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
printf '#!/bin/sh\n# Containers start no services.\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

: > "$root/etc/machine-id"
: > "$root/etc/resolv.conf"
printf 'localhost\n' > "$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"

rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/log/* "$root"/var/cache/ldconfig/*
find "$root/usr" -name __pycache__ -type d -prune -exec rm -rf {} +
# What Dockerfiles written for other bases expect: dnf (a front end of apt), python and pip under the names and in the
# folder of the usual Python images, pip that installs beside Debian's packages.
printf '%s\n' "$REKINDLE_DNF" > "$root/usr/bin/dnf"
chmod 755 "$root/usr/bin/dnf"
ln -s dnf "$root/usr/bin/microdnf"
ln -s dnf "$root/usr/bin/yum"
for name in python python3; do ln -s /usr/bin/python3 "$root/usr/local/bin/$name"; done
for name in pip pip3; do ln -s /usr/bin/pip3 "$root/usr/local/bin/$name"; done
printf '[global]\nbreak-system-packages = true\nroot-user-action = ignore\n' > "$root/etc/pip.conf"

# Compiled anew, checked by nothing: the same bytes each time, and a guest imports http.server in a fifth of the time.
chroot "$root" sh -c 'python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3*'
