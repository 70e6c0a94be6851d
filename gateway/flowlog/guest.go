package flowlog

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxDropKinds is more than the protocol has.
const maxDropKinds = 32

// Labels stand in every record of a guest.
type Labels struct {
	Principal    string `json:"principal"`
	ImageArn     string `json:"imageArn"`
	ImageVersion string `json:"imageVersion"`
}

// Flow is a connection that ended, or was refused.
type Flow struct {
	Protocol string
	To       netip.AddrPort
	Name     string
	Allowed  bool
	Rule     string
	Reason   string
	BytesOut int64
	BytesIn  int64
	Duration time.Duration
}

// Query is a DNS query that was answered, or refused.
type Query struct {
	Name     string
	Type     string
	Allowed  bool
	Rule     string
	Reason   string
	Answers  []netip.Addr
	Duration time.Duration
}

// Guest is one guest's records. Safe for concurrent use; its methods never wait.
type Guest struct {
	log *Log
	id  string

	mu     sync.Mutex
	labels Labels
	second int64
	inIt   int
	// suppressed is what isn't in the file and not yet told there.
	suppressed int64
	drops      map[string]int64
}

type head struct {
	At    string `json:"at"`
	Guest string `json:"guest"`
	Labels
	Kind string `json:"kind"`
}

type flowRecord struct {
	head
	Protocol string  `json:"protocol"`
	To       string  `json:"to"`
	Name     *string `json:"name"`
	Verdict  string  `json:"verdict"`
	Rule     *string `json:"rule"`
	Reason   *string `json:"reason"`
	BytesOut int64   `json:"bytesOut"`
	BytesIn  int64   `json:"bytesIn"`
	Duration int64   `json:"durationMs"`
}

type queryRecord struct {
	head
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Verdict  string   `json:"verdict"`
	Rule     *string  `json:"rule"`
	Reason   *string  `json:"reason"`
	Answers  []string `json:"answers"`
	Duration int64    `json:"durationMs"`
}

type countRecord struct {
	head
	What  string `json:"what,omitempty"`
	Count int64  `json:"count"`
}

// Flow writes a flow's record. That of an ICMP flow has an address without a port.
func (g *Guest) Flow(flow Flow) {
	now, labels, ok := g.admit()
	if !ok {
		return
	}
	to := flow.To.String()
	if flow.Protocol == "icmp" {
		to = flow.To.Addr().String()
	}
	g.send(flowRecord{
		head: g.head(now, labels, "flow"), Protocol: flow.Protocol, To: to, Name: orNull(flow.Name), Verdict: verdict(flow.Allowed),
		Rule: orNull(flow.Rule), Reason: orNull(flow.Reason), BytesOut: flow.BytesOut, BytesIn: flow.BytesIn, Duration: flow.Duration.Milliseconds(),
	})
}

// Query writes a query's record.
func (g *Guest) Query(query Query) {
	now, labels, ok := g.admit()
	if !ok {
		return
	}
	answers := make([]string, 0, len(query.Answers))
	for _, answer := range query.Answers {
		answers = append(answers, answer.String())
	}
	g.send(queryRecord{
		head: g.head(now, labels, "dns"), Name: query.Name, Type: query.Type, Verdict: verdict(query.Allowed),
		Rule: orNull(query.Rule), Reason: orNull(query.Reason), Answers: answers, Duration: query.Duration.Milliseconds(),
	})
}

// Drop counts frames that were dropped; they are written once a second per kind.
func (g *Guest) Drop(what string, count int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drops == nil {
		g.drops = map[string]int64{}
	}
	if _, known := g.drops[what]; known || len(g.drops) < maxDropKinds {
		g.drops[what] += count
	}
}

// SetLabels changes the labels of the records from now on.
func (g *Guest) SetLabels(labels Labels) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.labels = labels
}

// Detach writes what is pending; the file stays until room is needed. Flows that end a little later are still written.
func (g *Guest) Detach() {
	for _, text := range g.counts() {
		if !g.log.offer(line{g, text}) {
			g.log.lost.Add(1)
		}
	}
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if g.log.guests[g.id] == g {
		delete(g.log.guests, g.id)
	}
}

// admit counts a record against the guest's rate.
func (g *Guest) admit() (time.Time, Labels, bool) {
	now := g.log.config.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if second := now.Unix(); second != g.second {
		g.second, g.inIt = second, 0
	}
	if g.inIt >= g.log.config.PerSecond {
		g.suppressed++
		g.log.suppressed.Add(1)
		return now, Labels{}, false
	}
	g.inIt++
	return now, g.labels, true
}

// missed takes back records that could not be written.
func (g *Guest) missed(count int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suppressed += count
}

// counts gives the records of what was only counted since the last time.
func (g *Guest) counts() [][]byte {
	g.mu.Lock()
	drops, suppressed, labels := g.drops, g.suppressed, g.labels
	g.drops, g.suppressed = nil, 0
	g.mu.Unlock()
	if len(drops) == 0 && suppressed == 0 {
		return nil
	}
	now := g.log.config.Now()
	var texts [][]byte
	kinds := make([]string, 0, len(drops))
	for what := range drops {
		kinds = append(kinds, what)
	}
	slices.Sort(kinds)
	for _, what := range kinds {
		texts = append(texts, encode(countRecord{head: g.head(now, labels, "drop"), What: what, Count: drops[what]}))
	}
	if suppressed > 0 {
		texts = append(texts, encode(countRecord{head: g.head(now, labels, "suppressed"), Count: suppressed}))
	}
	return texts
}

func (g *Guest) head(now time.Time, labels Labels, kind string) head {
	return head{At: now.UTC().Format("2006-01-02T15:04:05.000Z"), Guest: g.id, Labels: labels, Kind: kind}
}

func (g *Guest) send(record any) {
	if !g.log.offer(line{g, encode(record)}) {
		g.log.lost.Add(1)
		g.missed(1)
	}
}

// encode can't fail for our records; strings that are no UTF-8 (a guest's DNS names) come out with U+FFFD in them.
func encode(record any) []byte {
	text, err := json.Marshal(record)
	if err != nil {
		return nil
	}
	return append(text, '\n')
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func verdict(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "refused"
}

// guestOf gives whose a file is; rotated says which of the two.
func guestOf(file string) (guest string, rotated, ok bool) {
	guest, ok = strings.CutSuffix(file, ".ndjson")
	if !ok {
		return "", false, false
	}
	guest, rotated = strings.CutSuffix(guest, ".1")
	return guest, rotated, checkGuest(guest) == nil
}
