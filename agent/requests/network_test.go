package requests

import "testing"

func TestOnlySocketsThatLoopbackReachesCountAsListening(t *testing.T) {
	for row, want := range map[string]bool{
		"   0: 00000000:1F90 00000000:0000 0A 00000000:00000000":                                                 true,
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000":                                                 true,
		"   0: 0200000A:1F90 00000000:0000 0A 00000000:00000000":                                                 false,
		"   0: 0100007F:1F90 00000000:0000 01 00000000:00000000":                                                 false,
		"   0: 0100007F:1F91 00000000:0000 0A 00000000:00000000":                                                 false,
		"   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000": true,
		"   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000": true,
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode":       false,
		"": false,
	} {
		if got := rowListens(row, 8080); got != want {
			t.Errorf("%q gave %v", row, got)
		}
	}
}
