package main

import (
	"strings"
	"testing"
)

func TestTheBuildLogPassesWholeLinesAndNoticesAFullDisk(t *testing.T) {
	var out strings.Builder
	log := &buildLog{to: &out}
	for _, part := range []string{"#1 a\n#2 wri", "te: No space left on dev", "ice\ntime=\"2026\" level=warning\nlast"} {
		if _, err := log.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.flush(); err != nil {
		t.Fatal(err)
	}
	if want := "#1 a\n#2 write: No space left on device\nlast\n"; out.String() != want {
		t.Errorf("log is %q, not %q", out.String(), want)
	}
	if !log.diskFull {
		t.Error("the full disk was not noticed")
	}
}

func TestOnlyABuildThatTheDaemonTookIsTheDockerfilesDoing(t *testing.T) {
	for text, want := range map[string]bool{
		"error: context deadline exceeded\n":                                        false,
		"#1 [internal] load build definition from Dockerfile\nerror: parse error\n": true,
	} {
		log := &buildLog{to: &strings.Builder{}}
		if _, err := log.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if log.began != want {
			t.Errorf("began is %v after %q", log.began, text)
		}
	}
}

func TestABlobPathNeverLeavesTheLayout(t *testing.T) {
	for _, digest := range []string{"sha256:../../../etc/passwd", "sha512:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("A", 64), ""} {
		if path := blobPath("/layout", digest); path != "/layout/blobs/sha256/invalid" {
			t.Errorf("%q became %s", digest, path)
		}
	}
}

func TestAnAliasIsSpelledAsTheFrontendLooksItUp(t *testing.T) {
	for alias, want := range map[string]string{
		"docker.io/library/debian:13":                   "debian:13",
		"debian:latest":                                 "debian",
		"public.ecr.aws/lambda/microvms:al2023-minimal": "public.ecr.aws/lambda/microvms:al2023-minimal",
		"docker.io/some/one:latest":                     "some/one",
	} {
		if got := contextName(alias); got != want {
			t.Errorf("%s became %s", alias, got)
		}
	}
}
