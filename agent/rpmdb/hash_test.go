package rpmdb

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

func TestAHashOfBerkeleyDBListsWhatRPMSays(t *testing.T) {
	found, missed := read(fixture(t, "Packages"), nil)
	if want := whatRPMSays(t, "rpm-qa.old"); !slices.Equal(found, want) || missed != nil {
		t.Errorf("found %q, missed %q, want %q", found, missed, want)
	}
}

func TestHashesThatNobodyShouldTrustAreReadWithinBounds(t *testing.T) {
	number := binary.LittleEndian.PutUint32
	for name, c := range map[string]struct {
		change func(file, values, overflow []byte)
		missed string
	}{
		"pages of an odd size":         {func(file, _, _ []byte) { number(file[20:], 5000) }, "pages of 5000 bytes"},
		"encrypted":                    {func(file, _, _ []byte) { file[24] = 1 }, "is encrypted"},
		"pages beyond the file":        {func(file, _, _ []byte) { number(file[32:], 1<<32-1) }, "EOF"},
		"a key without a value":        {func(_, values, _ []byte) { values[20]++ }, " items"},
		"more items than fit":          {func(_, values, _ []byte) { values[20], values[21] = 254, 255 }, "65534 items"},
		"a value behind its key":       {func(_, values, _ []byte) { values[28], values[29] = 255, 255 }, "items at"},
		"a value in the page's header": {func(_, values, _ []byte) { values[28], values[29] = 4, 0 }, "and 4"},
		"a value of another kind":      {func(_, values, _ []byte) { values[binary.LittleEndian.Uint16(values[28:])] = 2 }, "an item of kind 2"},
		"a chain that contains itself": {func(_, _, overflow []byte) { copy(overflow[16:20], overflow[8:12]) }, "is not where it belongs"},
		"a chain that ends early":      {func(_, _, overflow []byte) { number(overflow[16:], 0) }, "page 0 is not where it belongs"},
		"a chain of empty pages":       {func(_, _, overflow []byte) { overflow[22], overflow[23] = 0, 0 }, "is not where it belongs"},
		"a page longer than it can be": {func(_, _, overflow []byte) { overflow[22], overflow[23] = 255, 255 }, "is not where it belongs"},
	} {
		file := fixture(t, "Packages")
		size := int(binary.LittleEndian.Uint32(file[20:]))
		var values, overflow []byte
		for page := range slices.Chunk(file, size) {
			switch {
			case values == nil && page[25] == hashSorted && page[20] > 0:
				values = page
			// The first of a chain of several.
			case overflow == nil && page[25] == pageOverflow && binary.LittleEndian.Uint32(page[12:]) == 0:
				overflow = page
			}
		}
		c.change(file, values, overflow)
		if _, missed := read(file, nil); len(missed) != 1 || !strings.Contains(missed[0], c.missed) {
			t.Errorf("%s: missed %q", name, missed)
		}
	}
}
