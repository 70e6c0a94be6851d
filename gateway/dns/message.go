package dns

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxQueryBytes = 4096
	// udpBytes is what fits a datagram that is never fragmented on its way; we say it to guests and upstreams alike.
	udpBytes    = 1232
	minUDPBytes = 512
	maxUDPBytes = 4096
	maxTCPBytes = 65535

	// Extended DNS errors, RFC 8914.
	optionEDE  = 15
	edeBlocked = 15

	rcodeBadVersion dnsmessage.RCode = 16
)

// request is a guest's query as far as it could be read.
type request struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	asked    bool
	edns     bool
	badEDNS  bool
	// size is how long the answer may be.
	size           int
	malformed      bool
	notImplemented bool
}

// parseRequest is false for what gets no answer at all: no header, or an answer itself (answering those makes loops).
func parseRequest(wire []byte, tcp bool) (request, bool) {
	var parser dnsmessage.Parser
	header, err := parser.Start(wire)
	if err != nil || header.Response {
		return request{}, false
	}
	req := request{header: header, size: minUDPBytes}
	if tcp {
		req.size = maxTCPBytes
	}
	if header.OpCode != 0 {
		req.notImplemented = true
		req.question, err = parser.Question()
		req.asked = err == nil
		return req, true
	}
	req.malformed = len(wire) > maxQueryBytes || req.read(&parser, tcp) != nil
	return req, true
}

func (req *request) read(parser *dnsmessage.Parser, tcp bool) error {
	var err error
	if req.question, err = parser.Question(); err != nil {
		return err
	}
	if _, err := parser.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return errors.New("more than one question")
	}
	req.asked = true
	if _, err := parser.AnswerHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return errors.New("answers in a query")
	}
	if _, err := parser.AuthorityHeader(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return errors.New("authorities in a query")
	}
	for {
		header, err := parser.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Type == dnsmessage.TypeOPT {
			if req.edns || header.Name.String() != "." {
				return errors.New("a second OPT, or a named one")
			}
			req.edns = true
			req.badEDNS = header.TTL>>16&0xff != 0
			if !tcp {
				req.size = min(max(int(header.Class), minUDPBytes), maxUDPBytes)
			}
		}
		if err := parser.SkipAdditional(); err != nil {
			return err
		}
	}
}

// logName is the name as asked, for the flow log.
func (req request) logName() string {
	name := req.question.Name.String()
	if len(name) > 1 {
		return name[:len(name)-1]
	}
	return name
}

// reply is what goes into an answer.
type reply struct {
	rcode   dnsmessage.RCode
	chain   []dnsmessage.Resource
	records []dnsmessage.Resource
	soa     *dnsmessage.Resource
	lives   time.Duration
	// blocked says why in an extended error, to those who speak EDNS.
	blocked string
}

// reply packs an answer that fits. Records that don't fit go, from the last on: clients that can't ask again over TCP have
// at least some.
func (req request) reply(rep reply) []byte {
	message := dnsmessage.Message{Header: dnsmessage.Header{
		ID: req.header.ID, Response: true, OpCode: req.header.OpCode, RecursionDesired: req.header.RecursionDesired, RecursionAvailable: true, RCode: rep.rcode,
	}}
	if req.asked {
		message.Questions = []dnsmessage.Question{req.question}
	}
	if req.badEDNS {
		rep = reply{rcode: rcodeBadVersion}
		message.RCode = dnsmessage.RCodeSuccess
	}
	ttl := uint32(rep.lives / time.Second)
	for _, records := range [][]dnsmessage.Resource{rep.chain, rep.records} {
		for _, record := range records {
			record.Header.TTL = ttl
			message.Answers = append(message.Answers, record)
		}
	}
	req.spellAsAsked(message.Answers)
	if rep.soa != nil && len(rep.records) == 0 {
		soa := *rep.soa
		soa.Header.TTL = ttl
		message.Authorities = []dnsmessage.Resource{soa}
	}
	if req.edns {
		message.Additionals = []dnsmessage.Resource{ednsRecord(rep)}
	}
	for {
		wire, err := message.Pack()
		if err == nil && len(wire) <= req.size {
			return wire
		}
		switch {
		case len(message.Authorities) > 0:
			message.Authorities = nil
		case len(message.Answers) > 0:
			message.Truncated = true
			message.Answers = message.Answers[:len(message.Answers)-1-len(message.Answers)/8]
		default:
			return req.bare(rep.rcode)
		}
	}
}

// spellAsAsked gives the name asked for the guest's own spelling: some stubs compare letter by letter.
func (req request) spellAsAsked(answers []dnsmessage.Resource) {
	owner := fold(req.question.Name)
	for i := range answers {
		if fold(answers[i].Header.Name) == owner {
			answers[i].Header.Name = req.question.Name
		}
	}
}

// bare is an answer's header alone.
func (req request) bare(rcode dnsmessage.RCode) []byte {
	wire := make([]byte, 12)
	binary.BigEndian.PutUint16(wire, req.header.ID)
	binary.BigEndian.PutUint16(wire[2:], 0x8080|uint16(rcode&0xf))
	return wire
}

func ednsRecord(rep reply) dnsmessage.Resource {
	var header dnsmessage.ResourceHeader
	header.Name = dnsmessage.MustNewName(".")
	// It can't fail: the root's name and two numbers.
	_ = header.SetEDNS0(udpBytes, rep.rcode, false)
	body := &dnsmessage.OPTResource{}
	if rep.blocked != "" {
		body.Options = []dnsmessage.Option{{Code: optionEDE, Data: append([]byte{0, edeBlocked}, rep.blocked...)}}
	}
	return dnsmessage.Resource{Header: header, Body: body}
}
