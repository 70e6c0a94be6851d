/**
 * What set-up leaves in the cache folder and the engine runs on: QEMU, the guest's kernel and initramfs, the managed
 * base, the builder's root disk. Described by one `runtime.json`.
 */

/** Absolute paths. Everything here is read-only for the engine. */
export interface Runtime {
  readonly generation: 1;
  /** Digest over all inputs; part of every snapshot's manifest. */
  readonly stamp: string;
  readonly qemu: {
    readonly binary: string;
    /** qemu-img of the same version. */
    readonly img: string;
    /** Folders for `-L`, in order; empty for a system QEMU. */
    readonly dataDirs: readonly string[];
    readonly version: string;
  };
  readonly jail: {
    /** Folder that VMMs see as the root of their file system. */
    readonly root: string;
    /** QEMU was built with libseccomp. */
    readonly hasSeccomp: boolean;
    /** `bwrap`; absent where none could be had. */
    readonly bubblewrap?: string;
  };
  /** The network of all machines: a static program. */
  readonly gateway: { readonly program: string };
  readonly guest: {
    /** Uncompressed kernel image with PVH entry where available, else bzImage. */
    readonly kernel: string;
    readonly kernelRelease: string;
    /** Agent as /init, modules, static e2fsck, crun. */
    readonly initramfs: string;
  };
  /** The host's TSC frequency, for `tsc_early_khz`. */
  readonly tscKhz: number;
  readonly base: {
    /** Managed image name, `al2023-1`. */
    readonly name: string;
    /** Raw ext4 disk holding the base's root file system, sparse, 8 GiB long. */
    readonly disk: string;
    /** Digest of the base's only (uncompressed) OCI layer. */
    readonly layerDigest: string;
    /** Dockerfile FROM names that resolve to it without a network. */
    readonly aliases: readonly string[];
  };
  readonly builder: {
    /** Raw ext4 root disk of the builder machine: BuildKit, crun, the base as OCI layout, `/usr/lib/rekindle/build`. */
    readonly disk: string;
  };
}
