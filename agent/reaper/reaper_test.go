package reaper

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func running(t *testing.T) (*Reaper, context.Context) {
	// Orphans come to us, as to PID 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	r := New()
	go r.Run(ctx)
	return r, ctx
}

func TestOutputAndExitCodesAreTheChildsOwn(t *testing.T) {
	r, ctx := running(t)
	for script, want := range map[string]int{"echo out; echo err >&2; exit 3": 3, "echo out; echo err >&2; kill -9 $$": 137} {
		output, code, err := r.Output(ctx, "/bin/sh", "-c", script)
		if err != nil || code != want || output != "out\nerr\n" {
			t.Errorf("%s: %q, %d, %v", script, output, code, err)
		}
	}
}

func TestAnOrphanIsAdoptedAlsoAfterItsEnd(t *testing.T) {
	r, ctx := running(t)
	output, _, err := r.Output(ctx, "/bin/sh", "-c", "sh -c 'sleep 0.1; exit 5' >/dev/null 2>&1 & echo $!")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(output))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := r.Adopt(pid).Wait(ctx); err != nil || code != 5 {
		t.Errorf("code %d, %v", code, err)
	}
	r.mu.Lock()
	r.ended(99999999, 7)
	r.mu.Unlock()
	if code, err := r.Adopt(99999999).Wait(ctx); err != nil || code != 7 {
		t.Errorf("code %d, %v", code, err)
	}
}

func TestAProgramThatIsNotThereIsAnErrorAndNoChild(t *testing.T) {
	r, _ := running(t)
	if _, err := r.Start("/nonexistent", []string{"x"}, &syscall.ProcAttr{}); err == nil {
		t.Fatal("it was started")
	}
	if len(r.children) != 0 {
		t.Error("a child is awaited")
	}
}
