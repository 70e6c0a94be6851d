package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	settingsVariable = "REKINDLE_BUILD_SETTINGS"
	// In memory: this guest's disk is not kept either, but its cache disk is.
	settingsDir    = "/run/rekindle"
	clientConfig   = settingsDir + "/client"
	trustFile      = settingsDir + "/trust.pem"
	systemTrust    = "/etc/ssl/certs/ca-certificates.crt"
	dockerHubHost  = "docker.io"
	dockerHubLogin = "https://index.docker.io/v1/"
)

// settings are the operator's, as the host hands them over; the names are those of BuilderSettings there.
type settings struct {
	Registries map[string]registry `json:"registries"`
	Aliases    map[string]string   `json:"aliases"`
	// Trust is PEM: certificates that pulls and steps believe beside the usual ones.
	Trust string `json:"trust"`
	// Offline makes near names mean the managed bases.
	Offline bool `json:"offline"`
}

type registry struct {
	Mirrors  []string `json:"mirrors"`
	HTTP     bool     `json:"http"`
	Username string   `json:"username"`
	Password string   `json:"password"`
	Token    string   `json:"token"`
}

// takeSettings reads them from the environment and removes them there, so that nothing started inherits them.
func takeSettings() (settings, error) {
	text := os.Getenv(settingsVariable)
	if err := os.Unsetenv(settingsVariable); err != nil {
		return settings{}, err
	}
	var found settings
	if text == "" {
		return found, nil
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return settings{}, fmt.Errorf("the build's settings cannot be read: %w", err)
	}
	return found, nil
}

// writeFiles makes what the client and the steps read.
func (s settings) writeFiles() error {
	if err := os.MkdirAll(clientConfig, 0o700); err != nil {
		return err
	}
	login, err := s.login()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(clientConfig, "config.json"), login, 0o600); err != nil {
		return err
	}
	if s.Trust == "" {
		return nil
	}
	usual, err := os.ReadFile(systemTrust)
	if err != nil {
		return err
	}
	// Steps of any user read it.
	if err := os.WriteFile(trustFile, append(append(usual, '\n'), s.Trust...), 0o644); err != nil {
		return err
	}
	return writeRuntime()
}

// login is the client's config.json, which it answers the daemon's questions for credentials from.
func (s settings) login() ([]byte, error) {
	type auth struct {
		Auth          string `json:"auth,omitempty"`
		RegistryToken string `json:"registrytoken,omitempty"`
	}
	auths := map[string]auth{}
	for host, r := range s.Registries {
		if host == dockerHubHost {
			host = dockerHubLogin
		}
		switch {
		case r.Token != "":
			auths[host] = auth{RegistryToken: r.Token}
		case r.Username != "" || r.Password != "":
			auths[host] = auth{Auth: base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + r.Password))}
		}
	}
	return json.Marshal(map[string]any{"auths": auths})
}

// daemonRegistries is their part of the daemon's configuration.
func (s settings) daemonRegistries() string {
	var text strings.Builder
	for host, r := range s.Registries {
		// JSON's strings are TOML's.
		name, _ := json.Marshal(host)
		fmt.Fprintf(&text, "[registry.%s]\n", name)
		if r.HTTP {
			text.WriteString("  http = true\n")
		}
		if len(r.Mirrors) > 0 {
			mirrors, _ := json.Marshal(r.Mirrors)
			fmt.Fprintf(&text, "  mirrors = %s\n", mirrors)
		}
	}
	return text.String()
}

// environment is that of daemon and client.
func (s settings) environment() []string {
	env := append(os.Environ(), "DOCKER_CONFIG="+clientConfig)
	if s.Trust != "" {
		env = append(env, "SSL_CERT_FILE="+trustFile)
	}
	return env
}
