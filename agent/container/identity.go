package container

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// identify resolves USER as a Dockerfile means it, against the image's own passwd and group files. The files are the
// app's: they are opened without leaving its root, whatever links they are.
func identify(root *os.Root, name string) (specs.User, string, error) {
	passwd, closePasswd := openFile(root, "etc/passwd")
	defer closePasswd()
	group, closeGroup := openFile(root, "etc/group")
	defer closeGroup()
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return specs.User{}, "", fmt.Errorf("user %q: %w", name, err)
	}
	identity := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, gid := range found.Sgids {
		identity.AdditionalGids = append(identity.AdditionalGids, uint32(gid))
	}
	return identity, found.Home, nil
}

// openFile opens a file of the image; one that is missing is an empty one.
func openFile(root *os.Root, name string) (io.Reader, func()) {
	// A pipe of that name would be waited for until somebody writes to it.
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return strings.NewReader(""), func() {}
	}
	// Nor is a device read, which may never end.
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return strings.NewReader(""), func() {}
	}
	return io.LimitReader(file, 8<<20), func() { file.Close() }
}

// environment adds what every Docker container has and the image does not set.
func environment(env []string, home string) []string {
	full := append([]string(nil), env...)
	for _, entry := range []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname, "HOME=" + home} {
		name, _, _ := strings.Cut(entry, "=")
		if !hasEnv(env, name) {
			full = append(full, entry)
		}
	}
	return full
}

func hasEnv(env []string, name string) bool {
	for _, entry := range env {
		if strings.HasPrefix(entry, name+"=") {
			return true
		}
	}
	return false
}
