package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func imageRoot(t *testing.T) *os.Root {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
		"etc/group":  "root:x:0:\napp:x:1001:\nextra:x:2000:app\nother:x:3000:\n",
	} {
		_ = os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func TestUserMeansWhatItMeansInADockerfile(t *testing.T) {
	root := imageRoot(t)
	for name, want := range map[string]struct {
		uid, gid uint32
		groups   []uint32
		home     string
	}{
		"":          {0, 0, nil, "/root"},
		"app":       {1000, 1001, []uint32{2000}, "/home/app"},
		"1000":      {1000, 1001, []uint32{2000}, "/home/app"},
		"app:other": {1000, 3000, nil, "/home/app"},
		"4711":      {4711, 0, nil, "/"},
		"4711:42":   {4711, 42, nil, "/"},
	} {
		got, home, err := identify(root, name)
		if err != nil || got.UID != want.uid || got.GID != want.gid || home != want.home || !slices.Equal(got.AdditionalGids, want.groups) {
			t.Errorf("%q is %+v at %s (%v)", name, got, home, err)
		}
	}
	if _, _, err := identify(root, "nobody-here"); err == nil {
		t.Error("an unknown name was taken")
	}
}

func TestAnImageWithoutPasswdHasRoot(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got, home, err := identify(root, ""); err != nil || got.UID != 0 || home != "/" {
		t.Errorf("%+v at %s (%v)", got, home, err)
	}
}

func TestPipesAndLinksInPlaceOfPasswdAreNotWaitedForOrFollowed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "etc/passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/group", filepath.Join(dir, "etc/group")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got, home, err := identify(root, "0"); err != nil || got.UID != 0 || home != "/" {
		t.Errorf("%+v at %s (%v)", got, home, err)
	}
	if _, _, err := identify(root, "0:daemon"); err == nil {
		t.Error("a group of this host was taken")
	}
}

func TestOnlyMissingEnvironmentIsAdded(t *testing.T) {
	got := environment([]string{"PATH=/x", "A=b"}, "/root")
	if want := []string{"PATH=/x", "A=b", "HOSTNAME=localhost", "HOME=/root"}; !slices.Equal(got, want) {
		t.Errorf("environment is %q", got)
	}
}

func TestTheFilesOfTheNetworkAreMountedOverTheImages(t *testing.T) {
	for _, all := range []bool{false, true} {
		for _, file := range []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
			found := slices.IndexFunc(mounts(all), func(m specs.Mount) bool { return m.Destination == file })
			if found < 0 || mounts(all)[found].Source != "/run/app/"+filepath.Base(file) {
				t.Errorf("%s is the image's", file)
			}
		}
	}
}

// bits is the mask as /proc/self/status shows it.
func bits(t *testing.T, names []string) (mask uint64) {
	order := []string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
		"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
		"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
		"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
		"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
		"CHECKPOINT_RESTORE",
	}
	for _, name := range names {
		n := slices.Index(order, strings.TrimPrefix(name, "CAP_"))
		if n < 0 {
			t.Fatalf("no capability %s", name)
		}
		mask |= 1 << n
	}
	return mask
}

func TestCapabilitiesAreDockersOrAll(t *testing.T) {
	if mask := bits(t, capabilities(false, 0).Bounding); mask != 0xa80425fb {
		t.Errorf("default is %x", mask)
	}
	if mask := bits(t, capabilities(true, 0).Effective); mask != 0x1ffffffffff {
		t.Errorf("all is %x", mask)
	}
	if set := capabilities(false, 1000); len(set.Effective) != 0 || len(set.Ambient) != 0 || len(set.Bounding) == 0 {
		t.Errorf("another user has %+v", set)
	}
}

// allows tells whether the profile lets a call through whatever its arguments.
func allows(profile *specs.LinuxSeccomp, call string) bool {
	for _, rule := range profile.Syscalls {
		if rule.Action == specs.ActAllow && len(rule.Args) == 0 && slices.Contains(rule.Names, call) {
			return true
		}
	}
	return false
}

func TestTheSystemCallFilterFollowsTheCapabilities(t *testing.T) {
	for _, all := range []bool{false, true} {
		start := Start{Argv: []string{"x"}, Cwd: "/", Capabilities: map[bool]string{false: "default", true: "all"}[all]}
		s, err := spec(start, "/rootfs", specs.User{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"mount", "unshare", "setns", "bpf", "perf_event_open", "finit_module"} {
			if got := allows(s.Linux.Seccomp, call); got != all {
				t.Errorf("all=%v: %s allowed is %v", all, call, got)
			}
		}
		for _, call := range []string{"keyctl", "kexec_load", "add_key", "socket"} {
			if allows(s.Linux.Seccomp, call) {
				t.Errorf("all=%v: %s is allowed", all, call)
			}
		}
	}
}

func TestARequestIsCheckedBeforeAnythingHappens(t *testing.T) {
	for _, start := range []Start{
		{Capabilities: "default"},
		{Argv: []string{""}, Capabilities: "default"},
		{Argv: []string{"x"}, Capabilities: "some"},
	} {
		if start.check() == nil {
			t.Errorf("%+v was taken", start)
		}
	}
}

func TestTheFirstShellIsFoundWithoutLeavingTheRoot(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		links map[string]string
		want  string
	}{
		"bash before sh":            {files: []string{"bin/bash", "bin/sh"}, want: "/bin/bash"},
		"busybox by absolute links": {files: []string{"bin/busybox"}, links: map[string]string{"bin/sh": "/bin/busybox"}, want: "/bin/sh"},
		"busybox alone":             {files: []string{"busybox/busybox"}, want: "/busybox/busybox"},
		"none":                      {},
		"a link out of the root":    {links: map[string]string{"bin/sh": "../../../../../../../bin/sh"}},
		"a folder":                  {files: []string{"bin/sh/x"}},
	} {
		root := t.TempDir()
		for _, file := range c.files {
			_ = os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755)
			_ = os.WriteFile(filepath.Join(root, file), nil, 0o755)
		}
		for from, to := range c.links {
			_ = os.MkdirAll(filepath.Dir(filepath.Join(root, from)), 0o755)
			_ = os.Symlink(to, filepath.Join(root, from))
		}
		argv, err := findShell(root)
		if c.want == "" && (err == nil || !strings.Contains(err.Error(), "no shell")) {
			t.Errorf("%s: %q, %v", name, argv, err)
		}
		if c.want != "" && (err != nil || argv[0] != c.want) {
			t.Errorf("%s: %q, %v", name, argv, err)
		}
	}
}
