package container

import (
	"os"
	"path"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"rekindle/agent/network"
)

const hostname = "localhost"

// defaultCapabilities are Docker's: the set a80425fb.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var furtherCapabilities = []string{
	"CAP_DAC_READ_SEARCH", "CAP_LINUX_IMMUTABLE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_LEASE", "CAP_AUDIT_CONTROL", "CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// spec describes the container as Docker would run it, but for the network, which is the guest's.
func spec(start Start, rootPath string, identity specs.User, env []string) (*specs.Spec, error) {
	all := start.Capabilities == "all"
	s := &specs.Spec{
		Version:  "1.0.2",
		Hostname: hostname,
		Root:     &specs.Root{Path: rootPath},
		Process: &specs.Process{
			User:         identity,
			Args:         start.Argv,
			Env:          env,
			Cwd:          start.Cwd,
			Capabilities: capabilities(all, identity.UID),
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524_288}},
			OOMScoreAdj:  new(int),
		},
		Mounts: mounts(all),
		Linux: &specs.Linux{
			CgroupsPath: "/app",
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.CgroupNamespace},
			},
			RootfsPropagation: "rprivate",
			Resources:         &specs.LinuxResources{Devices: deviceRules(all)},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if all {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: fuseMajor, Minor: fuseMinor, FileMode: new(os.FileMode(0o666))}}
	}
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, err
	}
	s.Linux.Seccomp = profile
	return s, nil
}

// capabilities of root are in force; another user only keeps the bounding set, as under Docker.
func capabilities(all bool, uid uint32) *specs.LinuxCapabilities {
	names := defaultCapabilities
	if all {
		names = slices.Concat(defaultCapabilities, furtherCapabilities)
	}
	set := &specs.LinuxCapabilities{Bounding: names}
	if uid == 0 {
		set.Effective, set.Permitted = names, names
	}
	return set
}

func mounts(all bool) []specs.Mount {
	cgroup := specs.Mount{
		Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
	}
	if all {
		cgroup.Options[4] = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		cgroup,
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
	}
	for _, file := range ownFiles {
		list = append(list, specs.Mount{
			Destination: file.path, Type: "bind", Source: file.source(), Options: []string{"bind", "rprivate"},
		})
	}
	return list
}

// ownFile is one that Docker mounts over the image's, whatever that says.
type ownFile struct{ path, text string }

func (f ownFile) source() string { return path.Join(bundlePath, path.Base(f.path)) }

var ownFiles = []ownFile{
	{"/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
	{"/etc/resolv.conf", "nameserver " + network.NameServer + "\n"},
	{"/etc/hostname", hostname + "\n"},
}

const (
	fuseMajor = 10
	fuseMinor = 229
)

// deviceRules let the app make any node, as CAP_MKNOD says, but use only harmless ones: the disks and the link's port are
// a mknod away otherwise.
func deviceRules(all bool) []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	allowed := [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}}
	if all {
		allowed = append(allowed, [2]int64{fuseMajor, fuseMinor})
	}
	for _, number := range allowed {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &number[0], Access: "rwm"}
		if number[1] >= 0 {
			rule.Minor = &number[1]
		}
		rules = append(rules, rule)
	}
	return rules
}
