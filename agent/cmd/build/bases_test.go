package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
)

const basesText = "debian:trixie sha256:aa\ndocker.io/library/python:3.13 sha256:bb\npython:3.11-slim sha256:bb near\n"

func TestFromNamesLeadToBasesAndAliases(t *testing.T) {
	bases, err := parseBases(basesText)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		with settings
		want []string
	}{
		{settings{}, []string{"context:debian:trixie=oci-layout://base@sha256:aa", "context:python:3.13=oci-layout://base@sha256:bb"}},
		{settings{Offline: true}, []string{
			"context:debian:trixie=oci-layout://base@sha256:aa", "context:python:3.11-slim=oci-layout://base@sha256:bb",
			"context:python:3.13=oci-layout://base@sha256:bb"}},
		// Aliases win, and may lead to a base.
		{settings{Aliases: map[string]string{"debian:trixie": "r.io/d:1", "mine": "python:3.13"}}, []string{
			"context:debian:trixie=docker-image://r.io/d:1", "context:mine=oci-layout://base@sha256:bb",
			"context:python:3.13=oci-layout://base@sha256:bb"}},
	} {
		got := baseContexts(bases, c.with)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v leads to %v, not %v", c.with, got, c.want)
		}
	}
	if _, err := parseBases("one two three\n"); err == nil {
		t.Error("a wrong line was taken")
	}
}

func TestASubstitutedBaseIsSaid(t *testing.T) {
	bases, err := parseBases(basesText)
	if err != nil {
		t.Fatal(err)
	}
	dockerfile := "FROM --platform=linux/amd64 python:3.11-slim AS a\nfrom debian:trixie\n"
	said := substitutes(dockerfile, bases, settings{Offline: true})
	if len(said) != 1 || !strings.HasPrefix(said[0], "python:3.11-slim is answered by a managed base") {
		t.Errorf("said %q", said)
	}
	if said := substitutes(dockerfile, bases, settings{}); len(said) != 0 {
		t.Errorf("said %q though registries are asked", said)
	}
	if said := substitutes(dockerfile, bases, settings{Offline: true, Aliases: map[string]string{"python:3.11-slim": "a/b"}}); len(said) != 0 {
		t.Errorf("said %q of an alias", said)
	}
}

func TestSettingsAreTakenOutOfTheEnvironment(t *testing.T) {
	t.Setenv(settingsVariable, `{"registries":{"docker.io":{"username":"u","password":"p"},"a.io:5000":{"token":"t","http":true,"mirrors":["m.io/x"]}}}`)
	found, err := takeSettings()
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range found.environment() {
		if strings.HasPrefix(variable, settingsVariable) {
			t.Error("children inherit the settings")
		}
	}
	login, err := found.login()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"auths":{"a.io:5000":{"registrytoken":"t"},"https://index.docker.io/v1/":{"auth":"dTpw"}}}`; string(login) != want {
		t.Errorf("login is %s", login)
	}
	if want := "[registry.\"a.io:5000\"]\n  http = true\n  mirrors = [\"m.io/x\"]\n"; !strings.Contains(found.daemonRegistries(), want) {
		t.Errorf("the daemon is told %s", found.daemonRegistries())
	}
}

func TestAStepSeesTheCertificatesAndItsOwnVariablesWin(t *testing.T) {
	changed, err := withTrust([]byte(`{"process":{"env":["PIP_CERT=mine"]},"mounts":[{"destination":"/dev"}],"other":1}`))
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Process struct{ Env []string }
		Mounts  []struct{ Destination, Source string }
		Other   int
	}
	if err := json.Unmarshal(changed, &spec); err != nil {
		t.Fatal(err)
	}
	if last := spec.Process.Env[len(spec.Process.Env)-1]; last != "PIP_CERT=mine" || len(spec.Process.Env) != 7 || spec.Other != 1 {
		t.Errorf("the spec became %s", changed)
	}
	if len(spec.Mounts) != 2 || spec.Mounts[1].Source != trustFile {
		t.Errorf("mounts are %v", spec.Mounts)
	}
	if dir, ok := bundleOf([]string{"--log", "x", "run", "--bundle", "/b", "id"}); !ok || dir != "/b" {
		t.Errorf("the bundle is %q", dir)
	}
	if _, ok := bundleOf([]string{"kill", "id"}); ok {
		t.Error("a call without a bundle has one")
	}
}

func TestErrorsOfBuildKitAreExplained(t *testing.T) {
	const failed = "ERROR: failed to solve: a.io/x:1: failed to resolve source metadata for a.io/x:1: "
	for line, want := range map[string]string{
		failed + "a.io/x:1: not found": "a.io/x:1 does not exist",
		failed + "failed to do request: Head \"https://a.io/v2/\": dial tcp: lookup a.io on 10.0.0.1:53: no such host": "cannot be reached",
		failed + "pull access denied, repository does not exist or may require authorization: authorization failed":    "refuses it",
		failed + "no match for platform in manifest: not found":                                                        "linux/amd64",
		failed + "http: server gave HTTP response to HTTPS client":                                                     "plain HTTP",
		"ERROR: failed to solve: secret token: not found":                                                              "no secrets",
		`ERROR: failed to solve: no SSH key "default" forwarded from the client`:                                       "no SSH agent",
		"#5 0.1 all is well": "",
	} {
		if got := explain(line); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s is explained as %q", line, got)
		}
	}
}

func TestOfTheLogOnlyFailuresAreExplained(t *testing.T) {
	const missing = "a.io/x:1: failed to resolve source metadata for a.io/x:1: no match for platform in manifest: not found\n"
	for line, isExplained := range map[string]bool{
		"ERROR: failed to solve: " + missing:              true,
		"error: failed to run Build function: " + missing: true,
		"#5 0.1 " + missing:                               false,
	} {
		log := buildLog{to: io.Discard}
		if _, err := log.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if (log.explanation != "") != isExplained {
			t.Errorf("%q is explained as %q", line, log.explanation)
		}
	}
}
