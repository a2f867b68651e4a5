package window

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const chunkBytes = chunkBlocks * blockBytes

// mapWords maps a chunk at a multiple of its size, which is what a huge page
// takes (Documentation/admin-guide/mm/transhuge.rst). unmap is nil when that
// fails.
func mapWords() (fresh []words, unmap func()) {
	wide, err := unix.MmapPtr(-1, 0, nil, 2*chunkBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil
	}
	before := -uintptr(wide) % chunkBytes
	at := unsafe.Add(wide, before)
	if before > 0 {
		_ = unix.MunmapPtr(wide, before)
	}
	_ = unix.MunmapPtr(unsafe.Add(at, chunkBytes), chunkBytes-before)
	fresh = unsafe.Slice((*words)(at), chunkBlocks)
	_ = unix.Madvise(bytesOf(fresh), unix.MADV_HUGEPAGE) // where there are none, it is done with small ones
	return fresh, func() { _ = unix.MunmapPtr(at, chunkBytes) }
}

// giveBack gives the memory of words back to the system; they are zero
// afterwards.
func giveBack(w *words) {
	_ = unix.Madvise(bytesOf(unsafe.Slice(w, 1)), unix.MADV_DONTNEED)
}

func bytesOf(w []words) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), len(w)*blockBytes)
}
