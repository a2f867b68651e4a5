package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"slices"
)

// A segment is a file: a head that names the spool, then records. A record is
// a frame, the body, and the frame once more with another first byte, so that
// one damaged byte never hides what was there. Numbers are big-endian.
//
//	head    "fanin spool 1\r\n\x00", spool id, CRC-32C of both
//	frame   0xf5 or 0xf6, "REC", length of the body (4), samples (4), number (8),
//	        samples before it (8), microseconds since 1970 (8),
//	        CRC-32C of the body (4), CRC-32C of the spool id and all of the above (4)
//
// "Samples before it" counts all samples that the spool ever took. What is
// missing between two records is the difference, to the sample.
//
// While a segment is written to, it ends with zeros that records are written
// over (see createSegment).
const (
	headMagic = "fanin spool 1\r\n\x00"
	idLength  = 16
	headSize  = len(headMagic) + idLength + 4

	frameSize  = 44
	beginFrame = 0xf5
	endFrame   = 0xf6
	frameMagic = "REC"

	// maxBody is the most that one record holds, and maxSegment the largest
	// file that is looked into.
	maxBody    = 32 << 20
	maxSegment = 2 * maxBody
)

type spoolID [idLength]byte

func (id spoolID) String() string { return hex.EncodeToString(id[:]) }

// frame says what a record is.
type frame struct {
	number  uint64
	before  uint64 // samples of all records before it
	samples uint32
	length  uint32
	micros  int64 // when it was appended, since 1970
	crc     uint32
}

// sighting is what a segment tells of a record: all of it, or, of a damaged
// one, that it was there.
type sighting struct {
	frame
	offset int64 // of the body
	intact bool
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func appendHead(to []byte, id spoolID) []byte {
	begin := len(to)
	to = append(append(to, headMagic...), id[:]...)
	return binary.BigEndian.AppendUint32(to, checksum(to[begin:]))
}

func parseHead(b []byte) (id spoolID, ok bool) {
	if len(b) < headSize || string(b[:len(headMagic)]) != headMagic {
		return id, false
	}
	sum := headSize - 4
	if binary.BigEndian.Uint32(b[sum:]) != checksum(b[:sum]) {
		return id, false
	}
	return spoolID(b[len(headMagic):sum]), true
}

func (f *frame) append(to []byte, id spoolID, first byte) []byte {
	begin := len(to)
	to = append(append(to, first), frameMagic...)
	to = binary.BigEndian.AppendUint32(to, f.length)
	to = binary.BigEndian.AppendUint32(to, f.samples)
	to = binary.BigEndian.AppendUint64(to, f.number)
	to = binary.BigEndian.AppendUint64(to, f.before)
	to = binary.BigEndian.AppendUint64(to, uint64(f.micros))
	to = binary.BigEndian.AppendUint32(to, f.crc)
	return binary.BigEndian.AppendUint32(to, frameSum(id, to[begin:]))
}

func frameSum(id spoolID, b []byte) uint32 {
	return crc32.Update(checksum(id[:]), crc32.MakeTable(crc32.Castagnoli), b)
}

func parseFrame(b []byte, id spoolID, first byte) (f frame, ok bool) {
	const sum = frameSize - 4
	if len(b) < frameSize || b[0] != first || string(b[1:4]) != frameMagic ||
		binary.BigEndian.Uint32(b[sum:]) != frameSum(id, b[:sum]) {
		return f, false
	}
	f = frame{
		length:  binary.BigEndian.Uint32(b[4:]),
		samples: binary.BigEndian.Uint32(b[8:]),
		number:  binary.BigEndian.Uint64(b[12:]),
		before:  binary.BigEndian.Uint64(b[20:]),
		micros:  int64(binary.BigEndian.Uint64(b[28:])),
		crc:     binary.BigEndian.Uint32(b[36:]),
	}
	return f, f.length <= maxBody && f.number > 0
}

// appendRecord writes the whole record and returns where in it the body is.
func appendRecord(to []byte, id spoolID, f frame, body []byte) []byte {
	to = f.append(to, id, beginFrame)
	to = append(to, body...)
	return f.append(to, id, endFrame)
}

// scan finds the records of a segment, whatever became of the bytes: after
// damage it goes on at the next frame. A record is intact when its body and
// one of its frames are. Numbers rise strictly. A record that the end of the
// file cuts off is left out: it was never committed, or, in a segment that is
// not the last, is missed by the next record's count.
func scan(b []byte, id spoolID) (all []sighting) {
	at, last := 0, uint64(0)
	if _, ok := parseHead(b); ok {
		at = headSize
	}
	see := func(s sighting) {
		if s.number > last {
			all, last = append(all, s), s.number
		}
	}
	for at < len(b) {
		if f, ok := parseFrame(b[at:], id, beginFrame); ok {
			body := at + frameSize
			end := body + int(f.length)
			if end <= len(b) && checksum(b[body:end]) == f.crc {
				see(sighting{f, int64(body), true})
				at = end
				if _, ok := parseFrame(b[at:], id, endFrame); ok {
					at += frameSize
				}
				continue
			}
			if end+frameSize <= len(b) {
				if closing, ok := parseFrame(b[end:], id, endFrame); ok && closing == f {
					see(sighting{f, int64(body), false})
					at = end + frameSize
					continue
				}
			}
		} else if f, ok := parseFrame(b[at:], id, endFrame); ok {
			// The frame in front of the body is damaged. What is found here is
			// this record, and the body may be whole.
			s := sighting{frame: f, offset: int64(at) - int64(f.length)}
			s.intact = s.offset >= 0 && checksum(b[s.offset:at]) == f.crc
			see(s)
			at += frameSize
			continue
		}
		next := nextFrame(b[at+1:])
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return slices.Clip(all)
}

// nextFrame is where the next frame may begin.
func nextFrame(b []byte) int {
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(frameMagic))
		if i < 0 {
			return -1
		}
		at += i
		if at > 0 && (b[at-1] == beginFrame || b[at-1] == endFrame) {
			return at - 1
		}
		at += len(frameMagic)
	}
}
