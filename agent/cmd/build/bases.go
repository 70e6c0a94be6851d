package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// baseName is a name that a managed base has; near ones only where the operator wants no registry asked.
type baseName struct {
	name   string
	digest string
	isNear bool
}

func readBases() ([]baseName, error) {
	text, err := os.ReadFile(basesFile)
	if err != nil {
		return nil, err
	}
	return parseBases(string(text))
}

func parseBases(text string) ([]baseName, error) {
	var found []baseName
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || len(words) > 3 || len(words) == 3 && words[2] != "near" {
			return nil, fmt.Errorf("the list of bases has the line %q", line)
		}
		found = append(found, baseName{name: words[0], digest: words[1], isNear: len(words) == 3})
	}
	return found, nil
}

// baseContexts are the frontend's options by which FROM names lead elsewhere: the operator's aliases first, then the
// managed bases. An alias may lead to a managed base by one of its names.
func baseContexts(bases []baseName, with settings) []string {
	layouts := map[string]string{}
	for _, base := range bases {
		if !base.isNear || with.Offline {
			layouts[contextName(base.name)] = "oci-layout://base@" + base.digest
		}
	}
	contexts := map[string]string{}
	for name, layout := range layouts {
		contexts[name] = layout
	}
	for from, to := range with.Aliases {
		source, ok := layouts[contextName(to)]
		if !ok {
			source = "docker-image://" + to
		}
		contexts[contextName(from)] = source
	}
	var options []string
	for name, source := range contexts {
		options = append(options, fmt.Sprintf("context:%s=%s", name, source))
	}
	return options
}

// contextName is the only spelling under which the frontend looks a FROM name up, however the Dockerfile spells it.
func contextName(alias string) string {
	name := strings.TrimPrefix(alias, "docker.io/")
	name = strings.TrimPrefix(name, "library/")
	return strings.TrimSuffix(name, ":latest")
}

var fromLine = regexp.MustCompile(`(?im)^[ \t]*FROM[ \t]+(?:--platform=\S+[ \t]+)?(\S+)`)

// substitutes says of each FROM that names something else than what it will get.
func substitutes(dockerfile string, bases []baseName, with settings) []string {
	near := map[string]bool{}
	for _, base := range bases {
		near[contextName(base.name)] = base.isNear && with.Offline
	}
	for from := range with.Aliases {
		near[contextName(from)] = false
	}
	var said []string
	for _, match := range fromLine.FindAllStringSubmatch(dockerfile, -1) {
		if near[contextName(match[1])] {
			said = append(said, match[1]+" is answered by a managed base, which is only near it: this server builds offline")
		}
	}
	return said
}

// saySubstitutes writes them to the build's log.
func saySubstitutes(bases []baseName, with settings) error {
	text, err := os.ReadFile(filepath.Clean(dockerfileInContext))
	if err != nil {
		return err
	}
	for _, line := range substitutes(string(text), bases, with) {
		fmt.Printf("[builder] %s\n", line)
	}
	return nil
}
