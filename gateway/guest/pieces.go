package guest

import "sync"

// pieces are buffers that are only held while bytes move.
var pieces = sync.Pool{New: func() any {
	piece := make([]byte, 64<<10)
	return &piece
}}
