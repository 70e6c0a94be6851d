package dns

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxChain         = 8
	maxAnswerRecords = 32
	// maxReadRecords is how many of an upstream's answer are looked at.
	maxReadRecords = 128
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute
)

// answer is what an upstream says to a name and type, with nothing in it that wasn't asked for.
type answer struct {
	rcode dnsmessage.RCode
	// chain is the CNAMEs from the name asked for to that of the records.
	chain   []dnsmessage.Resource
	records []dnsmessage.Resource
	soa     *dnsmessage.Resource
	ttl     time.Duration
	expires time.Time
}

// open is the name that is to be asked next: the end of a chain whose records didn't come along.
func (a *answer) open(asked dnsmessage.Type) (string, bool) {
	if a.rcode != dnsmessage.RCodeSuccess || len(a.records) > 0 || len(a.chain) == 0 || a.soa != nil || asked == dnsmessage.TypeCNAME {
		return "", false
	}
	last, ok := a.chain[len(a.chain)-1].Body.(*dnsmessage.CNAMEResource)
	if !ok {
		return "", false
	}
	return fold(last.CNAME), true
}

// join puts the answer for a chain's end behind the chain.
func (a *answer) join(rest *answer) error {
	if len(a.chain)+len(rest.chain) > maxChain {
		return errors.New("too many CNAMEs")
	}
	a.chain = append(a.chain, rest.chain...)
	a.rcode, a.records, a.soa = rest.rcode, rest.records, rest.soa
	a.ttl = min(a.ttl, rest.ttl)
	return nil
}

// readAnswer takes the records that answer name (normal) and type out of a message whose header and question were found good.
func readAnswer(header dnsmessage.Header, parser *dnsmessage.Parser, name string, asked dnsmessage.Type) (*answer, error) {
	all, err := readRecords(parser.AnswerHeader, parser.Answer, parser.SkipAnswer, asked, dnsmessage.TypeCNAME)
	if err != nil {
		return nil, fmt.Errorf("answers: %w", err)
	}
	found := &answer{rcode: header.RCode, ttl: maxTTL}
	owner := name
	for asked != dnsmessage.TypeCNAME {
		link := findOwned(all, owner, dnsmessage.TypeCNAME)
		if link == nil {
			break
		}
		if len(found.chain) == maxChain {
			return nil, errors.New("too many CNAMEs")
		}
		found.chain = append(found.chain, *link)
		found.lower(link.Header.TTL)
		if target, ok := link.Body.(*dnsmessage.CNAMEResource); ok {
			owner = fold(target.CNAME)
		}
	}
	for _, record := range all {
		if record.Header.Type == asked && fold(record.Header.Name) == owner && len(found.records) < maxAnswerRecords {
			found.records = append(found.records, record)
			found.lower(record.Header.TTL)
		}
	}
	if len(found.records) > 0 {
		return found, nil
	}
	return found, found.readNegative(parser)
}

// readNegative looks for the SOA that says how long there is nothing.
func (a *answer) readNegative(parser *dnsmessage.Parser) error {
	all, err := readRecords(parser.AuthorityHeader, parser.Authority, parser.SkipAuthority, dnsmessage.TypeSOA)
	if err != nil {
		return fmt.Errorf("authorities: %w", err)
	}
	if len(all) == 0 {
		if len(a.chain) == 0 {
			a.ttl = 0
		}
		return nil
	}
	a.soa = &all[0]
	a.lower(all[0].Header.TTL)
	if body, ok := all[0].Body.(*dnsmessage.SOAResource); ok {
		a.lower(body.MinTTL)
	}
	a.ttl = min(a.ttl, maxNegativeTTL)
	return nil
}

func (a *answer) lower(seconds uint32) {
	a.ttl = min(a.ttl, time.Duration(seconds)*time.Second)
}

// readRecords keeps those of the wanted types; others are skipped unread.
func readRecords(
	header func() (dnsmessage.ResourceHeader, error), whole func() (dnsmessage.Resource, error), skip func() error, wanted ...dnsmessage.Type,
) ([]dnsmessage.Resource, error) {
	var kept []dnsmessage.Resource
	for range maxReadRecords {
		head, err := header()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return kept, nil
		}
		if err != nil {
			return nil, err
		}
		if head.Class != dnsmessage.ClassINET || !contains(wanted, head.Type) {
			if err := skip(); err != nil {
				return nil, err
			}
			continue
		}
		record, err := whole()
		if err != nil {
			return nil, err
		}
		kept = append(kept, lowerNames(record))
	}
	return nil, errors.New("too many records")
}

// lowerNames undoes the random spelling of our question, which compression carries into the answer's names.
func lowerNames(record dnsmessage.Resource) dnsmessage.Resource {
	lower(&record.Header.Name)
	switch body := record.Body.(type) {
	case *dnsmessage.CNAMEResource:
		lower(&body.CNAME)
	case *dnsmessage.NSResource:
		lower(&body.NS)
	case *dnsmessage.PTRResource:
		lower(&body.PTR)
	case *dnsmessage.MXResource:
		lower(&body.MX)
	case *dnsmessage.SRVResource:
		lower(&body.Target)
	case *dnsmessage.SOAResource:
		lower(&body.NS)
		lower(&body.MBox)
	}
	return record
}

func lower(name *dnsmessage.Name) {
	for i, c := range name.Data[:name.Length] {
		if 'A' <= c && c <= 'Z' {
			name.Data[i] = c - 'A' + 'a'
		}
	}
}

func contains(types []dnsmessage.Type, one dnsmessage.Type) bool {
	for _, other := range types {
		if other == one {
			return true
		}
	}
	return false
}

func findOwned(records []dnsmessage.Resource, owner string, kind dnsmessage.Type) *dnsmessage.Resource {
	for i := range records {
		if records[i].Header.Type == kind && fold(records[i].Header.Name) == owner {
			return &records[i]
		}
	}
	return nil
}

// fold gives names one spelling to compare by: ASCII lower case, no dot at the end.
func fold(name dnsmessage.Name) string {
	lower(&name)
	return strings.TrimSuffix(name.String(), ".")
}
