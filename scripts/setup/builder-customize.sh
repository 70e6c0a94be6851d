#!/bin/sh
# Finishes the builder machine's root: only what a build uses stays.
set -eu
root=$1

: > "$root/etc/machine-id"
: > "$root/etc/resolv.conf"
printf 'builder\n' > "$root/etc/hostname"
printf '127.0.0.1 localhost builder\n::1 localhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
# BuildKit looks for its OCI runtime under this name.
ln -s crun "$root/usr/bin/buildkit-runc"

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/var/cache/ldconfig/*
rm -rf "$root"/var/cache/debconf/* "$root"/var/lib/dpkg/*-old
