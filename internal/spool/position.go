package spool

import (
	"encoding/binary"
	"io"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// position says how far a spool is. It lies in a file of two slots that are
// written in turn and in place: one of them is always whole, and writing needs
// no room on a full disk. Without it everything on disk is sent again.
type position struct {
	id    spoolID
	turn  uint64 // the slot with the higher one counts
	clean bool   // written by Close

	// Records up to head are done with; headBefore samples were in them.
	head, headBefore uint64
	// The last number given out, and the samples up to and with it.
	last, lastBefore uint64
	// gaps are samples that are missing in the sequence and counted already, by
	// the number of the record that they are missing at or before.
	gaps map[uint64]uint64
}

const (
	positionMagic = "fanin position1\n"
	slotSize      = 4096
	slotHead      = len(positionMagic) + idLength + 8 + 8 + 4*8 + 8
	// maxGaps is how many fit beside the checksum; of more the oldest is
	// forgotten, and would be counted again.
	maxGaps = (slotSize - slotHead - 4) / 16
)

func (p *position) slot() []byte {
	b := make([]byte, 0, slotSize)
	b = append(append(b, positionMagic...), p.id[:]...)
	clean := uint64(0)
	if p.clean {
		clean = 1
	}
	numbers := slices.Sorted(maps.Keys(p.gaps))
	numbers = numbers[max(0, len(numbers)-maxGaps):]
	for _, v := range []uint64{p.turn, clean, p.head, p.headBefore, p.last, p.lastBefore, uint64(len(numbers))} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	for _, number := range numbers {
		b = binary.BigEndian.AppendUint64(b, number)
		b = binary.BigEndian.AppendUint64(b, p.gaps[number])
	}
	b = b[:slotSize-4]
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

func parseSlot(b []byte) (p position, ok bool) {
	const sum = slotSize - 4
	if len(b) < slotSize || string(b[:len(positionMagic)]) != positionMagic ||
		binary.BigEndian.Uint32(b[sum:]) != checksum(b[:sum]) {
		return p, false
	}
	b = b[len(positionMagic):]
	p.id, b = spoolID(b), b[idLength:]
	var clean, gaps uint64
	for _, v := range []*uint64{&p.turn, &clean, &p.head, &p.headBefore, &p.last, &p.lastBefore, &gaps} {
		*v, b = binary.BigEndian.Uint64(b), b[8:]
	}
	if gaps > uint64(maxGaps) {
		return p, false
	}
	p.clean, p.gaps = clean == 1, make(map[uint64]uint64, gaps)
	for range gaps {
		p.gaps[binary.BigEndian.Uint64(b)], b = binary.BigEndian.Uint64(b[8:]), b[16:]
	}
	return p, true
}

// parsePosition takes the newer of the slots that are whole.
func parsePosition(b []byte) (newest position, ok bool) {
	for ; len(b) > 0; b = b[min(len(b), slotSize):] {
		if p, whole := parseSlot(b); whole && (!ok || p.turn > newest.turn) {
			newest, ok = p, true
		}
	}
	return newest, ok
}

func readPosition(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 2*slotSize))
}

func (p *position) write(f *os.File, sync bool) error {
	p.turn++
	if _, err := f.WriteAt(p.slot(), int64(p.turn%2)*slotSize); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	return unix.Fdatasync(int(f.Fd()))
}
