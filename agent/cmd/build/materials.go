package main

import (
	"debug/buildinfo"
	"fmt"
	"regexp"
	"slices"
)

// dependency is something a build was made of, as BuildKit resolved it: an image, a URL, a commit.
type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

const (
	maxDependencies = 256
	maxURI          = 2048
	indexType       = "application/vnd.oci.image.index.v1+json"
	referenceType   = "vnd.docker.reference.type"
	predicateType   = "in-toto.io/predicate-type"
	slsaProvenance  = "https://slsa.dev/provenance/v1"
	buildkitDaemon  = "/usr/bin/buildkitd"
)

// attest asks for BuildKit's own provenance beside the image; without the arguments, which say what our client sends anyway.
const attest = "attest:provenance=mode=min,version=v1"

type descriptor struct {
	MediaType   string
	Digest      string
	Annotations map[string]string
}

// imageIn finds the image's manifest in a layout, and that of its provenance, empty when there is none.
func imageIn(layout string) (image, provenance string, err error) {
	var index struct{ Manifests []descriptor }
	if err := readDocument(layout+"/index.json", &index); err != nil {
		return "", "", err
	}
	if len(index.Manifests) == 1 && index.Manifests[0].MediaType == indexType {
		if err := readDocument(blobPath(layout, index.Manifests[0].Digest), &index); err != nil {
			return "", "", err
		}
	}
	isAttached := func(m descriptor) bool { return m.Annotations[referenceType] != "" }
	if at := slices.IndexFunc(index.Manifests, isAttached); at >= 0 {
		provenance = index.Manifests[at].Digest
	}
	images := slices.DeleteFunc(index.Manifests, isAttached)
	if len(images) != 1 {
		return "", "", fmt.Errorf("the build's result has %d manifests, not one", len(images))
	}
	return images[0].Digest, provenance, nil
}

// dependenciesIn reads them from the attestation that BuildKit made, under its manifest's digest.
func dependenciesIn(layout, manifest string) ([]dependency, error) {
	var attached struct{ Layers []descriptor }
	if err := readDocument(blobPath(layout, manifest), &attached); err != nil {
		return nil, err
	}
	for _, layer := range attached.Layers {
		if layer.Annotations[predicateType] != slsaProvenance {
			continue
		}
		var statement struct {
			Predicate struct {
				BuildDefinition struct{ ResolvedDependencies []dependency }
			}
		}
		if err := readDocument(blobPath(layout, layer.Digest), &statement); err != nil {
			return nil, err
		}
		return checked(statement.Predicate.BuildDefinition.ResolvedDependencies)
	}
	return nil, nil
}

var digestName, digestValue = regexp.MustCompile(`^[A-Za-z0-9]{1,32}$`), regexp.MustCompile(`^[0-9a-f]{32,128}$`)

// checked refuses what the host would: names and URLs come from a Dockerfile.
func checked(found []dependency) ([]dependency, error) {
	if len(found) > maxDependencies {
		return nil, failure{exitDockerfile, fmt.Errorf("the build has %d bases and sources; %d are possible", len(found), maxDependencies)}
	}
	for _, one := range found {
		if len(one.URI) == 0 || len(one.URI) > maxURI {
			return nil, failure{exitDockerfile, fmt.Errorf("the name of a base or source has %d bytes; %d are possible", len(one.URI), maxURI)}
		}
		for name, value := range one.Digest {
			if !digestName.MatchString(name) || !digestValue.MatchString(value) {
				return nil, fmt.Errorf("%.100s has the digest %.100q", one.URI, name+":"+value)
			}
		}
	}
	return found, nil
}

// buildkitVersion is that of the module the daemon was built from.
func buildkitVersion() string {
	info, err := buildinfo.ReadFile(buildkitDaemon)
	if err != nil || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
