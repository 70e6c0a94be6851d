/**
 * The seam between the engine and what runs a VM. QEMU is the first driver, the fake one serves tests; a driver knows
 * nothing of images, apps or the agent behind the link's socket.
 *
 * Invariant: a `Vmm` owns its process and the sockets in its run folder. `start` either gives one or leaves nothing.
 */

export interface VmmDriver {
  readonly name: string;
  readonly version: string;
  readonly accelerator: 'kvm' | 'tcg';
  /** What a snapshot depends on besides its files; compared by equality before one is loaded. */
  readonly machine: { readonly type: string; readonly cpuModel: string; readonly devices: string };
  readonly capabilities: {
    /** Changed memory can be saved and loaded apart from the rest. Without it each machine has a RAM file of its own. */
    readonly deltaSave: boolean;
  };
  /**
   * Starts a VM: one with a kernel boots at once, one without waits for `restore`.
   * @throws MachineError `exited` with the VMM's last words
   */
  start(config: VmmConfig, options: { signal?: AbortSignal | undefined }): Promise<Vmm>;
  /**
   * Takes over a VM that an earlier process of this program started; undefined when it does not live any more. `fresh`: its
   * guest never ran. `paused`: it ran and does not now. One that stands still is waited for until `signal` aborts.
   * @throws MachineError when it lives but cannot be talked to: it has been ended then, unless `leaving` is aborted
   */
  adopt(
    left: VmmLeft,
    options: { signal?: AbortSignal | undefined; leaving: AbortSignal },
  ): Promise<{ readonly vmm: Vmm; readonly status: 'running' | 'paused' | 'fresh' } | undefined>;
}

/** A VM as the process that started it left it. */
export interface VmmLeft {
  readonly id: string;
  readonly runDir: string;
  /** Mapped private, unless it is the VM's own. */
  readonly ram: string;
  readonly hasOwnRam: boolean;
  /** Of its root disk. */
  readonly overlay: string;
  /** As it was started with. Like one that is awaited, it runs first until `Vmm.calm`. */
  readonly limits: VmmLimits;
}

export interface VmmConfig {
  /** Appears in the process's command line. */
  readonly id: string;
  /** Existing private folder for sockets and logs; the process's working folder is in it, by which it can be found. */
  readonly runDir: string;
  /** What the guest sees. */
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly ram: {
    readonly path: string;
    /** `shared`: writes go to the file. `private`: copy-on-write, the file is never changed. */
    readonly sharing: 'shared' | 'private';
  };
  readonly disks: readonly Disk[];
  readonly network: VmmNetwork;
  readonly boot: { readonly kernel: string; readonly initramfs: string; readonly kernelLine: string } | 'restore';
  readonly limits: VmmLimits;
  /** Somebody waits for its guest: VMs that idle let it run first, until `Vmm.calm`, or for some seconds. */
  readonly isAwaited?: boolean;
}

/** What the VMM may take from its host. A driver that cannot hold one of them says so by the host's checks. */
export interface VmmLimits {
  /** CPU time per time. */
  readonly cpus: number;
  /** Against other machines, when all want more than there is; 1 is the share of one baseline vCPU. */
  readonly cpuWeight: number;
  /** Of the process: the guest's memory and what the VMM needs itself. */
  readonly memoryBytes: number;
  /** Threads and processes. */
  readonly tasks: number;
  /** Of all disks together. */
  readonly io: { readonly bytesPerSecond: number; readonly requestsPerSecond: number };
}

/** What is behind the NIC that every VM has. */
export type VmmNetwork =
  /** Nothing, and the NIC's link is down. */
  | 'down'
  | {
      /** The gateway's folder for this VM, with `net.sock`; the VMM connects to it, again and again when it breaks. */
      readonly socketDir: string;
      /** Of the NIC once the VM runs, whatever its snapshot says. */
      readonly link: LinkState;
    };

export type LinkState = 'up' | 'down';

/** How the NIC's link shall be once the VM runs. */
export function linkOf(network: VmmNetwork): LinkState {
  return network === 'down' ? 'down' : network.link;
}

export type DiskSerial = 'root' | 'spare1' | 'spare2' | 'spare3';

export interface Disk {
  readonly serial: DiskSerial;
  readonly source:
    | { readonly kind: 'raw'; readonly path: string }
    /** A qcow2 file over others (nearest first) over a raw one; only the first is ever written. */
    | {
        readonly kind: 'overlay';
        readonly path: string;
        /** Opens the first, when it is encrypted. The driver hands it on by a file in `runDir`, never by an argument. */
        readonly passphrase?: string;
        readonly layerPaths?: readonly string[];
        /** One each, when the layers are encrypted. */
        readonly layerPassphrases?: readonly string[];
        readonly basePath: string;
      }
    | { readonly kind: 'empty'; readonly bytes: number };
}

/** The process ended. */
export interface VmmExit {
  /** Its guest wanted it: a panic, a reset, a shutdown. */
  readonly byGuest: boolean;
  readonly message: string;
  readonly evidence: string;
}

/** Takes what is saved, in chunks of at most 1 MiB and a sixteenth; the buffers may be used again once it resolved. */
export interface MemorySink {
  write(...parts: readonly Buffer[]): Promise<void>;
}

/** Neighbouring pages of 4 KiB, by their place in the RAM file. */
export interface PageRun {
  readonly firstPage: number;
  readonly pages: number;
}

/** Pages written since the start, relative to the RAM file. */
export interface ChangedMemory {
  /** Hands them to `sink`. The VM is paused. Returns the bytes of page data. */
  save(sink: MemorySink): Promise<number>;
  /** Puts back the same chunks in the same order; before `restore`. A chunk's buffer is used before the next is asked for. */
  load(chunks: AsyncIterable<Buffer>): Promise<void>;
  /** Those read or written since the start, in the file's order; some neighbours may be among them. The VM may run meanwhile. */
  touched(): Promise<readonly PageRun[]>;
}

export interface Vmm extends AsyncDisposable {
  readonly pid: number;
  /** Socket of the guest's `rekindle.link` port; short enough for any state folder. */
  readonly linkSocketPath: string;
  /** Resolves when the process ended, asked or not. */
  readonly exited: Promise<VmmExit>;
  /** Present when the driver is capable of `deltaSave` and the RAM file is mapped private. */
  readonly changedMemory: ChangedMemory | undefined;
  /**
   * Loads device state, sets the NIC's link as configured, and lets the vCPUs run; `beforeRun` is awaited in between, at the
   * last moment at which the guest has done nothing. @throws MachineError `exited` or `failed` when it does not fit
   */
  restore(statePath: string, beforeRun?: () => Promise<void>): Promise<void>;
  pause(): Promise<void>;
  continue(): Promise<void>;
  /** Plugs the NIC's cable in or out; the guest is told. */
  setLink(state: LinkState): Promise<void>;
  /** Writes the device state of a paused VM; not synced. */
  saveState(path: string): Promise<void>;
  /** What somebody waited for is there: from now on it takes its turn like others. */
  calm(): void;
  /** Last lines of the VMM's own output and the guest's console. */
  evidence(): string;
  /** Closes what leads to it and lets it run; not to be disposed afterwards. */
  letGo(): void;
}
