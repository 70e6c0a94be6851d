package control

import (
	"os"
	"testing"
)

func TestAFolderThatWasDeletedIsGone(t *testing.T) {
	dir := t.TempDir() + "/gateway"
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	if folder.IsGone() {
		t.Fatal("it is there")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if !folder.IsGone() {
		t.Fatal("it is not there any more")
	}
}
