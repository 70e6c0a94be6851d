package applog

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestLinesAreNumberedAndCutAtTheirLimit(t *testing.T) {
	var ring Ring
	ring.Copy(1, strings.NewReader("a\r\n\n"+strings.Repeat("x", MaxLineBytes+1)+"\nlast"))
	lines, next, open := ring.From(0, 100)
	lengths := []int{1, 0, MaxLineBytes, 1, 4}
	if len(lines) != len(lengths) || next != 5 || !open {
		t.Fatalf("%d lines, next %d, open %v", len(lines), next, open)
	}
	for i, line := range lines {
		if len(line.Text) != lengths[i] || line.Cursor != int64(i) {
			t.Errorf("line %d has cursor %d and %d bytes", i, line.Cursor, len(line.Text))
		}
	}
}

func TestOldLinesGoAndACursorStaysTrue(t *testing.T) {
	var ring Ring
	text := strings.Repeat("x", 1000)
	for range 5000 {
		ring.Add(2, text, time.Time{})
	}
	lines, next, _ := ring.From(0, 10_000)
	if size := len(lines) * (1000 + lineOverhead); size > MaxBytes || size < MaxBytes-2000 {
		t.Errorf("%d bytes are kept", size)
	}
	if next != 5000 || lines[0].Cursor != int64(5000-len(lines)) {
		t.Errorf("cursors %d to %d", lines[0].Cursor, next)
	}
	if lines, next, _ := ring.From(99_999, 10); len(lines) != 0 || next != 5000 {
		t.Errorf("a cursor beyond the end gave %d lines and %d", len(lines), next)
	}
}

func TestAFollowerWaitsForLinesAndForTheEnd(t *testing.T) {
	var ring Ring
	go ring.Add(1, "x", time.Time{})
	if err := ring.Wait(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if ring.Wait(ctx, 1) == nil {
		t.Error("the wait outlived its context")
	}
	go ring.Close()
	if err := ring.Wait(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if _, _, open := ring.From(1, 1); open {
		t.Error("a closed log is open")
	}
}
