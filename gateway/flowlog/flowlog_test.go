package flowlog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

type bench struct {
	t     *testing.T
	log   *Log
	dir   string
	ticks chan time.Time
	mu    sync.Mutex
	clock time.Time
}

func start(t *testing.T, config Config) *bench {
	t.Helper()
	b := &bench{t: t, dir: config.Dir, ticks: make(chan time.Time), clock: time.Date(2026, 8, 1, 12, 0, 0, 5_000_000, time.UTC)}
	if b.dir == "" {
		b.dir = filepath.Join(t.TempDir(), "flows")
	}
	config.Dir, config.Now = b.dir, b.now
	var err error
	if b.log, err = open(config, b.ticks); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.end)
	return b
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

// flush is done when the second tick is taken.
func (b *bench) flush() {
	b.ticks <- b.now()
	b.ticks <- b.now()
}

func (b *bench) end() {
	_ = b.log.Close(context.Background())
}

func (b *bench) attach(id string) *Guest {
	b.t.Helper()
	guest, err := b.log.Attach(id, Labels{"alice", "arn:image", "3"})
	if err != nil {
		b.t.Fatal(err)
	}
	return guest
}

func (b *bench) lines(file string) []string {
	text, err := os.ReadFile(filepath.Join(b.dir, file))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func (b *bench) bytes() (total int64) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			b.t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

func TestRecordsAreWrittenAsTheProtocolSays(t *testing.T) {
	b := start(t, Config{})
	guest := b.attach("mvm-1")
	guest.Flow(Flow{Protocol: "tcp", To: netip.MustParseAddrPort("203.0.113.9:443"), Name: "example.com", Allowed: true, Rule: "r1", BytesOut: 10, BytesIn: 20, Duration: 1500 * time.Millisecond})
	guest.Flow(Flow{Protocol: "icmp", To: netip.MustParseAddrPort("127.0.0.1:0"), Reason: "loopback"})
	guest.Query(Query{Name: "example.com", Type: "A", Allowed: true, Rule: "r1", Answers: []netip.Addr{netip.MustParseAddr("203.0.113.9")}, Duration: 3 * time.Millisecond})
	guest.Query(Query{Name: "\xff<\n\"", Type: "TXT", Reason: "type"})
	guest.Drop("ip-options", 2)
	guest.Drop("ip-options", 1)
	guest.Drop("fragment", 1)
	b.flush()
	const head = `{"at":"2026-08-01T12:00:00.005Z","guest":"mvm-1","principal":"alice","imageArn":"arn:image","imageVersion":"3",`
	for i, want := range []string{
		`"kind":"flow","protocol":"tcp","to":"203.0.113.9:443","name":"example.com","verdict":"allowed","rule":"r1","reason":null,"bytesOut":10,"bytesIn":20,"durationMs":1500}`,
		`"kind":"flow","protocol":"icmp","to":"127.0.0.1","name":null,"verdict":"refused","rule":null,"reason":"loopback","bytesOut":0,"bytesIn":0,"durationMs":0}`,
		`"kind":"dns","name":"example.com","type":"A","verdict":"allowed","rule":"r1","reason":null,"answers":["203.0.113.9"],"durationMs":3}`,
		`"kind":"dns","name":"\ufffd\u003c\n\"","type":"TXT","verdict":"refused","rule":null,"reason":"type","answers":[],"durationMs":0}`,
		`"kind":"drop","what":"fragment","count":1}`,
		`"kind":"drop","what":"ip-options","count":3}`,
	} {
		lines := b.lines("mvm-1.ndjson")
		if i >= len(lines) || lines[i] != head+want {
			t.Errorf("line %d of %q, want %s", i, lines, head+want)
		}
		if i < len(lines) && !json.Valid([]byte(lines[i])) {
			t.Errorf("line %d is no JSON", i)
		}
	}
	info, err := os.Stat(filepath.Join(b.dir, "mvm-1.ndjson"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if stats := b.log.Stats(); stats != (Stats{Written: 6}) {
		t.Errorf("%+v", stats)
	}
}

func TestNewLabelsHoldFromThenOn(t *testing.T) {
	b := start(t, Config{})
	guest := b.attach("g")
	guest.Query(Query{Name: "a"})
	if again, err := b.log.Attach("g", Labels{Principal: "bob"}); err != nil || again != guest {
		t.Error("attached again it is another guest")
	}
	guest.Query(Query{Name: "b"})
	b.flush()
	lines := b.lines("g.ndjson")
	if len(lines) != 2 || !strings.Contains(lines[0], `"alice"`) || !strings.Contains(lines[1], `"bob"`) {
		t.Errorf("%q", lines)
	}
}

func TestRecordsBeyondARateAreCountedNotWritten(t *testing.T) {
	b := start(t, Config{})
	loud, quiet := b.attach("loud"), b.attach("quiet")
	for range 1000 {
		loud.Query(Query{Name: "a"})
	}
	quiet.Query(Query{Name: "a"})
	b.flush()
	lines := b.lines("loud.ndjson")
	if len(lines) != 201 || !strings.HasSuffix(lines[200], `"kind":"suppressed","count":800}`) {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if len(b.lines("quiet.ndjson")) != 1 {
		t.Error("the neighbour suffered")
	}
	b.advance(time.Second)
	loud.Query(Query{Name: "a"})
	b.flush()
	if n := len(b.lines("loud.ndjson")); n != 202 {
		t.Errorf("a second later: %d lines", n)
	}
	if stats := b.log.Stats(); stats.Suppressed != 800 || stats.Lost != 0 {
		t.Errorf("%+v", stats)
	}
}

func TestAFullQueueIsNeverWaitedFor(t *testing.T) {
	b := start(t, Config{QueueRecords: 10, PerSecond: 1 << 30})
	guest := b.attach("g")
	// The writer stands still behind this lock as behind a slow disk: flush asks for it first.
	b.log.mu.Lock()
	b.ticks <- b.now()
	for range 100 {
		guest.Query(Query{Name: "a"})
	}
	b.log.mu.Unlock()
	b.flush()
	lines := b.lines("g.ndjson")
	if len(lines) != 11 || !strings.HasSuffix(lines[10], `"kind":"suppressed","count":90}`) {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if b.log.Stats().Lost != 90 {
		t.Errorf("%+v", b.log.Stats())
	}
}

func TestADiskThatFailsIsReportedAndMadeUpFor(t *testing.T) {
	b := start(t, Config{})
	guest, other := b.attach("g"), b.attach("h")
	inTheWay := filepath.Join(b.dir, "g.ndjson")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	guest.Query(Query{Name: "a"})
	guest.Query(Query{Name: "a"})
	other.Query(Query{Name: "a"})
	b.flush()
	if stats := b.log.Stats(); stats.Lost < 2 || stats.LastError == nil || stats.Written != 1 {
		t.Errorf("%+v", stats)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	b.flush()
	if lines := b.lines("g.ndjson"); len(lines) != 1 || !strings.Contains(lines[0], `"kind":"suppressed"`) {
		t.Errorf("%q", lines)
	}
	if err := b.log.Stats().LastError; err != nil {
		t.Errorf("after all went well: %v", err)
	}
}

func TestALinkIsNotFollowed(t *testing.T) {
	b := start(t, Config{})
	guest := b.attach("g")
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(b.dir, "g.ndjson")); err != nil {
		t.Fatal(err)
	}
	guest.Query(Query{Name: "a"})
	b.flush()
	if text, _ := os.ReadFile(target); len(text) != 0 || b.log.Stats().LastError == nil {
		t.Errorf("%q %+v", text, b.log.Stats())
	}
}

func TestAFileIsRotatedBeforeItIsTooLong(t *testing.T) {
	b := start(t, Config{FileBytes: 2000})
	guest := b.attach("g")
	for i := range 40 {
		guest.Query(Query{Name: fmt.Sprint("n", i)})
		b.flush()
	}
	for _, name := range []string{"g.ndjson", "g.1.ndjson"} {
		info, err := os.Stat(filepath.Join(b.dir, name))
		if err != nil || info.Size() > 2000 || info.Size() == 0 {
			t.Errorf("%s: %v %v", name, info, err)
		}
		for _, one := range b.lines(name) {
			if !json.Valid([]byte(one)) {
				t.Errorf("%s: %q", name, one)
			}
		}
	}
	last := b.lines("g.ndjson")
	if !strings.Contains(last[len(last)-1], `"n39"`) {
		t.Errorf("%q", last)
	}
	entries, _ := os.ReadDir(b.dir)
	if len(entries) != 2 {
		t.Errorf("%v", entries)
	}
}

func TestOldFilesOfDetachedGuestsGoFirstWhenAllIsTooMuch(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, size int, age time.Duration) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o640); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	put("here.1.ndjson", 4000, 9*time.Hour)
	put("gone-old.ndjson", 4000, 5*time.Hour)
	put("gone-old.1.ndjson", 4000, 6*time.Hour)
	put("gone-new.ndjson", 4000, time.Hour)
	put("notes.txt", 100000, 20*time.Hour)
	b := start(t, Config{Dir: dir, TotalBytes: 17000, FileBytes: 4000})
	guest := b.attach("here")
	exists := func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	}
	write := func() {
		for range 7 {
			guest.Query(Query{Name: "a"})
		}
		b.advance(time.Second)
		b.flush()
	}
	write()
	if exists("gone-old.1.ndjson") || !exists("gone-old.ndjson") || !exists("here.1.ndjson") {
		t.Error("not the oldest of a detached guest went first")
	}
	put("flood.ndjson", 16500, 0)
	b.log.files.total = 17000
	write()
	if exists("gone-old.ndjson") || exists("gone-new.ndjson") || exists("flood.ndjson") || !exists("here.ndjson") || !exists("notes.txt") {
		t.Error("detached guests' files are still there, or others went")
	}
}

func TestAllGuestsTogetherStayBelowTheBound(t *testing.T) {
	b := start(t, Config{TotalBytes: 20000, FileBytes: 4000, PerSecond: 1 << 30})
	for i := range 30 {
		guest := b.attach(fmt.Sprint("g", i))
		for range 15 {
			guest.Query(Query{Name: "a"})
		}
		b.flush()
		if total := b.bytes(); total > 20000 {
			t.Fatalf("%d bytes", total)
		}
	}
	if len(b.lines("g29.ndjson")) != 15 {
		t.Error("the newest file is not whole")
	}
}

func TestCloseAndDetachWriteWhatIsPending(t *testing.T) {
	b := start(t, Config{})
	guest, other := b.attach("g"), b.attach("h")
	guest.Drop("ipv6", 7)
	guest.Detach()
	guest.Flow(Flow{Protocol: "tcp", To: netip.MustParseAddrPort("1.2.3.4:5")})
	other.Query(Query{Name: "a"})
	other.Drop("ipv6", 1)
	if err := b.log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n, m := len(b.lines("g.ndjson")), len(b.lines("h.ndjson")); n != 2 || m != 2 {
		t.Errorf("%d and %d lines", n, m)
	}
	other.Query(Query{Name: "late"})
	if b.log.Stats().Lost != 1 {
		t.Errorf("%+v", b.log.Stats())
	}
}

func TestTheFileGoesOnAfterARestart(t *testing.T) {
	b := start(t, Config{})
	b.attach("g").Query(Query{Name: "a"})
	b.end()
	b = start(t, Config{Dir: b.dir})
	b.attach("g").Query(Query{Name: "b"})
	b.flush()
	if n := len(b.lines("g.ndjson")); n != 2 {
		t.Errorf("%d lines", n)
	}
}

func TestGuestsThatCantHaveAFileAreRefused(t *testing.T) {
	b := start(t, Config{})
	for _, id := range []string{"", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\x00", "ä", "a.1", strings.Repeat("a", 129)} {
		if _, err := b.log.Attach(id, Labels{}); err == nil {
			t.Errorf("%q was taken", id)
		}
	}
	for _, id := range []string{"a", "1", "a.b_c-D", "a.11", strings.Repeat("a", 128)} {
		if _, err := b.log.Attach(id, Labels{}); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestOpenFlushesBySecondsOfItsOwn(t *testing.T) {
	log, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	guest, err := log.Attach("g", Labels{})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				guest.Query(Query{Name: "a"})
				guest.Drop("ipv6", 1)
			}
		})
	}
	all.Wait()
	if err := log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if stats := log.Stats(); stats.Written < 202 || stats.Lost != 0 {
		t.Errorf("%+v", stats)
	}
	if _, err := Open(Config{Dir: "/dev/null/x"}); err == nil {
		t.Error("a folder that can't be was made")
	}
}
