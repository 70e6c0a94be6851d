package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// blob adds a document to a layout and returns its digest.
func blob(t *testing.T, layout, text string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	write(t, blobPath(layout, digest), text)
	return digest
}

func TestDependenciesComeFromTheAttestationBesideTheImage(t *testing.T) {
	layout := t.TempDir()
	statement := `{"predicate":{"buildDefinition":{"resolvedDependencies":[{"uri":"pkg:docker/debian@13","digest":{"sha256":"` + strings.Repeat("a", 64) + `"}}]}}}`
	attached := blob(t, layout, `{"layers":[{"digest":"`+blob(t, layout, statement)+`","annotations":{"in-toto.io/predicate-type":"https://slsa.dev/provenance/v1"}}]}`)
	config := blob(t, layout, `{"config":{},"os":"linux","architecture":"amd64"}`)
	manifest := blob(t, layout, `{"config":{"digest":"`+config+`"},"layers":[{"digest":"sha256:1"}]}`)
	index := blob(t, layout, `{"manifests":[{"digest":"`+manifest+`"},{"digest":"`+attached+`","annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}`)
	write(t, filepath.Join(layout, "index.json"), `{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"`+index+`"}]}`)
	found, err := readImage(layout)
	if err != nil {
		t.Fatal(err)
	}
	want := []dependency{{"pkg:docker/debian@13", map[string]string{"sha256": strings.Repeat("a", 64)}}}
	if !reflect.DeepEqual(found.dependencies, want) || !reflect.DeepEqual(found.layers, []string{"sha256:1"}) {
		t.Errorf("found %+v", found)
	}
}

func TestOddDependenciesAreRefused(t *testing.T) {
	for _, odd := range []dependency{
		{"", nil}, {strings.Repeat("u", maxURI+1), nil}, {"u", map[string]string{"sha256": "not hex"}}, {"u", map[string]string{"a b": strings.Repeat("a", 64)}},
	} {
		if _, err := checked([]dependency{odd}); err == nil {
			t.Errorf("%.100v was taken", odd)
		}
	}
	if _, err := checked(make([]dependency, maxDependencies+1)); err == nil {
		t.Error("too many were taken")
	}
}

func TestATimeIsGivenOnlyToADockerfileThatDeclaresIt(t *testing.T) {
	for text, want := range map[string]bool{
		"FROM a\nARG SOURCE_DATE_EPOCH\n":         true,
		"FROM a\n  arg A=b SOURCE_DATE_EPOCH  \n": true,
		"FROM a\nARG SOURCE_DATE_EPOCH=5\n":       false,
		"FROM a\nENV SOURCE_DATE_EPOCH 5\n":       false,
		"# ARG SOURCE_DATE_EPOCH\nFROM a\n":       false,
	} {
		if epochDeclared.MatchString(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

func TestTheNewestFileThatIsNotOfTheFutureCounts(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_000_000, 0)
	for name, at := range map[string]int64{"old": 10, "in/new": 20, "future": 2_000_000} {
		write(t, filepath.Join(dir, name), "")
		if err := os.Chtimes(filepath.Join(dir, name), time.Unix(at, 0), time.Unix(at, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if at, err := newestFile(dir, now); err != nil || at.Unix() != 20 {
		t.Errorf("%v, %v", at, err)
	}
}
