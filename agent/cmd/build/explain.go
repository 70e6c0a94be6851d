package main

import (
	"regexp"
	"strings"
)

// explanations say of an error of BuildKit's what to do about it, in the terms of whoever builds. The first that fits is said.
var explanations = []struct {
	says *regexp.Regexp
	text string
}{
	{regexp.MustCompile(`secret \S+: not found`),
		"builds have no secrets: what a RUN --mount=type=secret must have (required) is not there. The image's build role gives steps AWS credentials; other secrets belong into the environment variables of the image or of the run."},
	{regexp.MustCompile(`no SSH key \S+ forwarded|unset ssh forward key`),
		"builds have no SSH agent: a RUN --mount=type=ssh that is required cannot work. Fetch by HTTPS, or put what is needed into the artifact."},
	{regexp.MustCompile(`failed to resolve source metadata for (\S+): .*(?:401 Unauthorized|403 Forbidden|authorization failed|insufficient_scope|no basic auth credentials|failed to authorize)`),
		"the registry of $1 refuses it: it wants credentials, or other ones, or the name does not exist. Credentials are given to the server by --registries (docs/IMAGES.md)."},
	{regexp.MustCompile(`failed to resolve source metadata for (\S+): .*no match for platform`),
		"$1 has nothing for linux/amd64, which is what microVMs run."},
	{regexp.MustCompile(`failed to resolve source metadata for (\S+): .*(?:no such host|server misbehaving|i/o timeout|connection refused|network is unreachable|no route to host|connection reset|EOF)`),
		"the registry of $1 cannot be reached from this build. Its egress connector must allow it; by --registries a server can name mirrors, or \"offline\": true to build common names on the managed bases (docs/IMAGES.md)."},
	{regexp.MustCompile(`failed to resolve source metadata for (\S+): .*(?:certificate|x509)`),
		"the certificate of the registry of $1 is not believed. By --registries a server can be given more certificates (docs/IMAGES.md)."},
	{regexp.MustCompile(`failed to resolve source metadata for (\S+): .*server gave HTTP response to HTTPS client`),
		"the registry of $1 speaks plain HTTP: say \"http\": true of it in the server's --registries file, if that is meant (docs/IMAGES.md)."},
	{regexp.MustCompile(`failed to resolve source metadata for (\S+): .*not found`),
		"$1 does not exist: its registry knows no such name, tag or digest."},
	{regexp.MustCompile(`exec format error`),
		"a step's program is for another processor: microVMs run linux/amd64."},
}

// explain returns what to do about an error line of a build, or an empty text.
func explain(line string) string {
	for _, e := range explanations {
		if match := e.says.FindStringSubmatchIndex(line); match != nil {
			return strings.TrimSuffix(string(e.says.ExpandString(nil, e.text, line, match)), "\n")
		}
	}
	return ""
}
