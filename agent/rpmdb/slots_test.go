package rpmdb

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// inSlots has the headers of a database in rpm's own format: Debian's rpm does not write it.
func inSlots(t testing.TB, database []byte) []byte {
	t.Helper()
	number := binary.LittleEndian.AppendUint32
	file := append([]byte(slotsMagic), make([]byte, 28)...)
	binary.LittleEndian.PutUint32(file[12:], 1)
	headers := []byte{}
	err := scan(bytes.NewReader(database), nil, func(b *blob) error {
		header, err := b.slice(0, b.size)
		index := uint32(len(file) / slotSize)
		at := uint32(slotsPage + len(headers))
		file = number(number(number(append(file, slotMagic...), index), at/slotSize), 0)
		headers = append(number(number(number(append(headers, headerMagic...), index), 0), uint32(len(header))), header...)
		headers = append(headers, make([]byte, slotSize-len(headers)%slotSize)...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for len(file) < slotsPage {
		file = append(append(file, slotMagic...), make([]byte, 12)...)
	}
	return append(file, headers...)
}

func TestRPMsOwnFormatListsWhatRPMSays(t *testing.T) {
	found, missed := read(inSlots(t, fixture(t, "rpmdb.sqlite")), nil)
	if want := whatRPMSays(t, "rpm-qa"); !slices.Equal(found, want) || missed != nil {
		t.Errorf("found %q, missed %q, want %q", found, missed, want)
	}
}

func TestSlotsThatNobodyShouldTrustAreReadWithinBounds(t *testing.T) {
	good := inSlots(t, fixture(t, "rpmdb.sqlite"))
	number := binary.LittleEndian.PutUint32
	for name, c := range map[string]struct {
		change func(file []byte)
		missed string
	}{
		"another version":          {func(file []byte) { file[4] = 1 }, "version 1"},
		"slots beyond the file":    {func(file []byte) { number(file[12:], 1<<32-1) }, "a slot that is none"},
		"another slot":             {func(file []byte) { file[32] = 0 }, "a slot that is none"},
		"a header beyond the file": {func(file []byte) { number(file[40:], 1<<32-1) }, "EOF"},
		"a header elsewhere":       {func(file []byte) { file[40]++ }, "a slot without its header"},
		"another's header":         {func(file []byte) { copy(file[40:44], file[56:60]) }, "a slot without its header"},
		"a header without an end":  {func(file []byte) { number(file[slotsPage+12:], 20) }, "is larger than its row"},
	} {
		file := slices.Clone(good)
		c.change(file)
		if _, missed := read(file, nil); len(missed) != 1 || !strings.Contains(missed[0], c.missed) {
			t.Errorf("%s: missed %q", name, missed)
		}
	}
}

func TestAHeaderThatAllSlotsShareIsNotReadForEver(t *testing.T) {
	_, missed := read(sharedBySlots(1<<20, []byte{0, 0, 255, 255, 0, 0, 0, 0}), nil)
	if last := missed[len(missed)-1]; len(missed) > 200 || !strings.HasSuffix(last, "more than 134217728 bytes to read") {
		t.Errorf("missed %d, the last %q", len(missed), last)
	}
}

func TestOnlyTheBeginningOfAHeaderIsRead(t *testing.T) {
	index := []byte{0, 0, 0, 1, 0, 0xf0, 0, 0, 0, 0, tagName >> 8, tagName & 0xff, 0, 0, 0, typeString, 0, 0x90, 0, 0, 0, 0, 0, 1}
	found, missed := read(sharedBySlots(16<<20, index), nil)
	if found != nil || missed[0] != "a header: what is asked for lies behind 8388608 bytes" {
		t.Errorf("found %q, missed %q", found, missed)
	}
}

// sharedBySlots is a database with a header of so many bytes, which many slots name.
func sharedBySlots(size int, header []byte) []byte {
	number := binary.LittleEndian.AppendUint32
	slot := number(number(append([]byte(slotMagic), 7, 0, 0, 0), 2*slotsPage/slotSize), 0)
	file := append([]byte(slotsMagic), make([]byte, 28)...)
	binary.LittleEndian.PutUint32(file[12:], 2)
	file = append(file, bytes.Repeat(slot, 2*slotsPage/slotSize-2)...)
	file = number(append(append(file, headerMagic...), 7, 0, 0, 0, 0, 0, 0, 0), uint32(size))
	return slices.Concat(file, header, make([]byte, size-len(header)))
}
