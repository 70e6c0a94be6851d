package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// With certificates of the operator's, every step sees them and finds them by the variables that programs look at, and
// the image does not: this program then stands between the daemon and the OCI runtime and adds both to a step's bundle.
const (
	runtimeName  = "oci-runtime"
	runtimeLink  = settingsDir + "/" + runtimeName
	bundleConfig = "config.json"
	// In a tmpfs of the step's, so that no mount point is left in the image.
	trustInStep = "/dev/rekindle-trust.pem"
)

var trustVariables = []string{
	"SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "REQUESTS_CA_BUNDLE",
}

// writeRuntime makes the name under which the daemon starts this program as its runtime.
func writeRuntime() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Remove(runtimeLink); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(self, runtimeLink)
}

// runAsRuntime changes the bundle, if the call has one, and becomes the real runtime.
func runAsRuntime(args []string) error {
	if dir, ok := bundleOf(args); ok {
		if err := addTrust(filepath.Join(dir, bundleConfig)); err != nil {
			return err
		}
	}
	program := realRuntime()
	return syscall.Exec(program, append([]string{program}, args...), os.Environ())
}

func bundleOf(args []string) (string, bool) {
	for i, arg := range args {
		if (arg == "--bundle" || arg == "-b") && i+1 < len(args) {
			return args[i+1], true
		}
	}
	return "", false
}

func addTrust(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := withTrust(text)
	if err != nil {
		return err
	}
	return os.WriteFile(file, changed, 0o600)
}

func withTrust(spec []byte) ([]byte, error) {
	var all map[string]any
	if err := json.Unmarshal(spec, &all); err != nil {
		return nil, fmt.Errorf("the step's bundle: %w", err)
	}
	process, ok := all["process"].(map[string]any)
	if !ok {
		return spec, nil
	}
	mounts, _ := all["mounts"].([]any)
	all["mounts"] = append(mounts, map[string]any{
		"destination": trustInStep, "type": "bind", "source": trustFile, "options": []string{"bind", "ro", "nosuid", "nodev", "noexec"},
	})
	env, _ := process["env"].([]any)
	// What the Dockerfile says comes later and wins.
	var added []any
	for _, name := range trustVariables {
		added = append(added, name+"="+trustInStep)
	}
	process["env"] = append(added, env...)
	return json.Marshal(all)
}

func realRuntime() string {
	const runc = "/usr/sbin/runc"
	if _, err := os.Stat(runc); err == nil {
		return runc
	}
	return "/usr/bin/crun"
}
