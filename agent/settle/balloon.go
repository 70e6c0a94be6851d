package settle

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
)

const balloonDriver = "/sys/bus/virtio/drivers/virtio_balloon"

// releaseBalloon ends the reporting of free pages: whoever is restored from the snapshot shares its memory with others
// and has nothing to give back, so that every report would only be refused.
func releaseBalloon() {
	devices, err := filepath.Glob(filepath.Join(balloonDriver, "virtio*"))
	if err != nil {
		return
	}
	for _, device := range devices {
		if err := unbind(filepath.Base(device)); err != nil {
			log.Print(err)
		}
	}
}

func unbind(device string) error {
	if err := os.WriteFile(filepath.Join(balloonDriver, "unbind"), []byte(device), 0); err != nil {
		return fmt.Errorf("release the balloon: %w", err)
	}
	return nil
}
