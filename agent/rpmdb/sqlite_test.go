package rpmdb

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

func TestWhatIsInTheLogBesideADatabaseCounts(t *testing.T) {
	database, log := fixture(t, "rpmdb.sqlite"), fixture(t, "rpmdb.sqlite-wal")
	before, after := whatRPMSays(t, "rpm-qa"), whatRPMSays(t, "rpm-qa.wal")
	broken := slices.Clone(log)
	broken[32+100]++
	foreign := slices.Clone(log)
	foreign[16]++
	stale := slices.Clone(log)
	stale[32+8]++
	for name, c := range map[string]struct {
		log  []byte
		want []string
	}{
		"whole":                           {log, after},
		"with half a frame behind":        {slices.Concat(log, log[32:2000]), after},
		"with frames of an earlier round": {slices.Concat(log, broken[32:]), after},
		"empty":                           {[]byte{}, before},
		"without a whole transaction":     {log[:32+2*(24+4096)], before},
		"with a broken first frame":       {broken, before},
		"with another salt":               {foreign, before},
		"with a stale first frame":        {stale, before},
		"with another magic number":       {append([]byte("junk"), log[4:]...), before},
	} {
		if found, missed := read(database, c.log); !slices.Equal(found, c.want) || missed != nil {
			t.Errorf("%s: found %q, missed %q", name, found, missed)
		}
	}
}

func TestALogOfAnotherDatabaseIsRefused(t *testing.T) {
	log := fixture(t, "rpmdb.sqlite-wal")
	_, missed := read(made(512, leaf(512)), log)
	if len(missed) != 1 || !strings.Contains(missed[0], "its log: version 3007000 with pages of 4096 bytes") {
		t.Errorf("missed %q", missed)
	}
}

func TestSQLiteDatabasesThatNobodyShouldTrustAreReadWithinBounds(t *testing.T) {
	good := row(header("good", "1", "2", "noarch"))
	spilled, rest := spilledRow(512, headerBehind(1000, "long", "1", "2", "noarch"), 3)
	deep := [][]byte{}
	for i := range uint32(40) {
		deep = append(deep, interior(512, i+3))
	}
	for name, c := range map[string]struct {
		database []byte
		found    int
		missed   string
	}{
		"one row":                          {made(512, leaf(512, good)), 1, ""},
		"a row over three pages":           {made(512, leaf(512, spilled), chain(512, 4, rest[:508]...), chain(512, 0, rest[508:]...)), 1, ""},
		"no tables":                        {made(512), 0, "bytes at 512: EOF"},
		"a tree that contains itself":      {made(512, interior(512, 2)), 0, "page 2 is not where it belongs"},
		"a tree that contains the schema":  {made(512, interior(512, 1)), 0, "page 1 is not where it belongs"},
		"a page that occurs twice":         {made(512, interior(512, 3, 3), leaf(512, good)), 1, "page 3 is not where it belongs"},
		"a tree that is too deep":          {made(512, deep...), 0, "more than 20 levels"},
		"a tree beyond the file":           {made(512, interior(512, 900)), 0, "EOF"},
		"an index":                         {made(512, make([]byte, 512)), 0, "none of a table"},
		"more cells than fit":              {made(512, append([]byte{tableLeaf, 0, 0, 255, 255}, make([]byte, 507)...)), 0, "65535 cells"},
		"a chain that contains itself":     {made(512, leaf(512, spilled), chain(512, 3)), 0, "page 3 is not where it belongs"},
		"a chain into the tree":            {made(512, leaf(512, spilled), chain(512, 2)), 0, "page 2 is not where it belongs"},
		"a chain that ends early":          {made(512, leaf(512, spilled), chain(512, 0)), 0, "page 0 is not where it belongs"},
		"a row that is too long":           {made(512, leaf(512, slices.Concat(bytes.Repeat([]byte{255}, 9), []byte{1, 0}))), 0, "no proper size"},
		"a row that leaves its page":       {made(512, leaf(512, []byte{100, 1, 0, 0})), 0, "beyond its page"},
		"a row of nothing":                 {made(512, leaf(512, []byte{0, 1, 0, 0})), 0, "no proper columns"},
		"columns beyond the row":           {made(512, leaf(512, []byte{3, 1, 3, 0, 126})), 0, "points beyond its end"},
		"a row of many columns":            {made(512, leaf(512, slices.Concat([]byte{0x82, 0x10, 1, 0x82, 0x10}, make([]byte, 270)))), 0, "no proper columns"},
		"columns of another table":         {made(512, leaf(512, []byte{2, 1, 2, 1, 9})), 0, "none of rpm's"},
		"a header with too many entries":   {made(512, leaf(512, row([]byte{255, 0, 0, 0, 0, 0, 0, 0}), good)), 1, "more than 65535 entries"},
		"a header larger than its row":     {made(512, leaf(512, row([]byte{0, 0, 0, 1, 255, 0, 0, 0}), good)), 1, "larger than its row"},
		"a header without a name":          {made(512, leaf(512, row(header("", "1", "2", "noarch")), good)), 1, "no name"},
		"a name without an end":            {made(512, leaf(512, row(header(strings.Repeat("n", 300), "1", "2", "noarch")), good)), 1, "no end within"},
		"a name that is a number":          {made(512, leaf(512, row(retyped(header("good", "1", "2", "noarch"))), good)), 1, "tag 1000 has type 4"},
		"pages of an odd size":             {resized(made(512), 768), 0, "pages of 768 bytes"},
		"pages of which nothing is usable": {reserved(made(512)), 0, "257 of them usable"},
	} {
		found, missed := read(c.database, nil)
		if len(found) != c.found || (missed == nil) != (c.missed == "") || !strings.Contains(strings.Join(missed, ""), c.missed) {
			t.Errorf("%s: found %q, missed %.300q", name, found, missed)
		}
	}
}

func TestRowsAreCounted(t *testing.T) {
	rows := slices.Repeat([][]byte{row(nil)}, 6000)
	_, missed := read(made(65536, interior(65536, 3, 4), leaf(65536, rows...), leaf(65536, rows...)), nil)
	if len(missed) != maxRows+1 || missed[maxRows] != "more than 10000 entries" {
		t.Errorf("missed %d, the last %q", len(missed), missed[len(missed)-1])
	}
}

func TestTablesAreCounted(t *testing.T) {
	schema := leaf(65536-100, slices.Repeat([][]byte{slices.Concat([]byte{6, 1}, record(nil, nil, nil, nil, nil))}, 1001)...)
	if found, missed := read(madeOf(65536, schema), nil); found != nil || !slices.Equal(missed, []string{"its tables: more than 1000"}) {
		t.Errorf("found %q, missed %q", found, missed)
	}
}

// made is a database whose table Packages has its root on the first of these pages, the second of the file.
func made(size int, pages ...[]byte) []byte {
	schema := record([]byte("table"), []byte("Packages"), []byte("Packages"), []byte{2}, []byte("CREATE"))
	// The root page is a number of one byte.
	schema[4] = 1
	return madeOf(size, leaf(size-100, slices.Concat([]byte{byte(len(schema)), 1}, schema)), pages...)
}

// madeOf has this leaf on its first page, behind what every database starts with.
func madeOf(size int, schema []byte, pages ...[]byte) []byte {
	// Places are counted from the start of the page.
	for at := 8; at < 8+2*be16(schema[3:]); at += 2 {
		binary.BigEndian.PutUint16(schema[at:], uint16(be16(schema[at:])+100))
	}
	start := make([]byte, 100)
	copy(start, sqliteMagic)
	start[18], start[19] = 2, 2
	return resized(slices.Concat(append([][]byte{start, schema}, pages...)...), size)
}

func resized(database []byte, size int) []byte {
	binary.BigEndian.PutUint16(database[16:], uint16(max(size%65536, 1)))
	return database
}

func reserved(database []byte) []byte {
	database[20] = 255
	return database
}

func leaf(size int, cells ...[]byte) []byte {
	page := make([]byte, size)
	page[0] = tableLeaf
	binary.BigEndian.PutUint16(page[3:], uint16(len(cells)))
	end := size
	for i, cell := range cells {
		end -= max(len(cell), 4)
		copy(page[end:], cell)
		binary.BigEndian.PutUint16(page[8+2*i:], uint16(end))
	}
	return page
}

// interior has the last of these as its right-most child.
func interior(size int, children ...uint32) []byte {
	page := make([]byte, size)
	page[0] = tableInterior
	last := len(children) - 1
	binary.BigEndian.PutUint16(page[3:], uint16(last))
	binary.BigEndian.PutUint32(page[8:], children[last])
	for i, child := range children[:last] {
		at := size - 8*(i+1)
		binary.BigEndian.PutUint32(page[at:], child)
		binary.BigEndian.PutUint16(page[12+2*i:], uint16(at))
	}
	return page
}

func chain(size int, next uint32, part ...byte) []byte {
	page := make([]byte, size)
	binary.BigEndian.PutUint32(page, next)
	copy(page[4:], part)
	return page
}

// record has columns of bytes.
func record(columns ...[]byte) []byte {
	kinds, values := []byte{}, []byte{}
	for _, column := range columns {
		kinds = append(kinds, digits(12+2*len(column))...)
		values = append(values, column...)
	}
	return slices.Concat([]byte{byte(1 + len(kinds))}, kinds, values)
}

func digits(value int) []byte {
	if value < 0x80 {
		return []byte{byte(value)}
	}
	return []byte{0x80 | byte(value>>7), byte(value & 0x7f)}
}

// row is a cell of the table Packages.
func row(header []byte) []byte {
	columns := record(nil, header)
	// Its number is the row's own.
	columns[1] = 0
	return slices.Concat(digits(len(columns)), []byte{1}, columns)
}

// spilledRow is a cell that ends with the number of the page that has the rest.
func spilledRow(size int, header []byte, next uint32) (cell, rest []byte) {
	whole := row(header)
	start := len(digits(len(whole))) + 1
	least := (size-12)*32/255 - 23
	local := least + (len(whole)-start-least)%(size-4)
	if local > size-35 {
		local = least
	}
	return binary.BigEndian.AppendUint32(whole[:start+local:start+local], next), whole[start+local:]
}

// header is one with these four texts.
func header(texts ...string) []byte { return headerBehind(0, texts...) }

func headerBehind(filling int, texts ...string) []byte {
	index, data := []byte{}, make([]byte, filling)
	for i, tag := range []uint32{tagName, tagVersion, tagRelease, tagArch} {
		for _, number := range []uint32{tag, typeString, uint32(len(data)), 1} {
			index = binary.BigEndian.AppendUint32(index, number)
		}
		data = append(data, texts[i]+"\x00"...)
	}
	start := binary.BigEndian.AppendUint32(nil, uint32(len(index)/16))
	return slices.Concat(binary.BigEndian.AppendUint32(start, uint32(len(data))), index, data)
}

func retyped(header []byte) []byte {
	header[8+7] = typeInt32
	return header
}
