package main

import (
	"errors"
	"regexp"
	"testing"
)

func TestPhasesAreToldInTheOrderOfTheirEndsWithWhatFailed(t *testing.T) {
	var took phases
	if err := took.of("solve", func() error { return took.of("daemon", func() error { return nil }) }); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no disk")
	if err := took.of("root disk", func() error { return failed }); err != failed {
		t.Errorf("the error became %v", err)
	}
	if want := regexp.MustCompile(`^daemon \d\.\d s, solve \d\.\d s, root disk \d\.\d s$`); !want.MatchString(took.String()) {
		t.Errorf("phases are %q", took.String())
	}
}
