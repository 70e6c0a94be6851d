package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestItRefusesToRunAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("these tests don't run as root")
	}
	dir := t.TempDir()
	code, err := run(t.Context(), []string{"--dir", dir, "--flows", dir}, slog.New(slog.DiscardHandler))
	if code != 2 || err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("it ended with %d, %v", code, err)
	}
}

func TestACallWithoutItsFoldersIsExplained(t *testing.T) {
	for _, args := range [][]string{nil, {"--dir", "x"}, {"--dir", "x", "--flows", "y", "z"}} {
		code, err := run(t.Context(), args, slog.New(slog.DiscardHandler))
		if code != 2 || err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%v: %d, %v", args, code, err)
		}
	}
}

func TestTheConfigurationIsReadStrictly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write := func(text string) string {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config, err := readConfig(write(`{"upstreams":["192.0.2.53:53"],"reachable":["10.9.0.0/16"],"hostAddresses":["192.0.2.7"]}`))
	if err != nil || config.upstreams[0] != netip.MustParseAddrPort("192.0.2.53:53") || len(config.reachable) != 1 || len(config.hostAddresses) != 1 {
		t.Errorf("read %+v, %v", config, err)
	}
	for _, text := range []string{"", "[]", `{"upstream":[]}`, `{"upstreams":["192.0.2.53"]}`, `{"reachable":["10.9.0.0"]}`, `{} {}`} {
		if _, err := readConfig(write(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := readConfig(path + ".not"); err == nil {
		t.Error("a file that isn't there was taken")
	}
}

func TestTheKernelAnnouncesChangesOfAddresses(t *testing.T) {
	changes, err := addressChanges()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = changes.Close() }()
	if err := changes.SetReadDeadline(time.Now()); err != nil {
		t.Errorf("reading can't be ended: %v", err)
	}
	_, err = changes.Read(make([]byte, 4096))
	if err == nil || !os.IsTimeout(err) {
		t.Errorf("with no change: %v (%v)", err, unix.EAGAIN)
	}
}
