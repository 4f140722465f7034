package record

import (
	"fmt"
	"time"
)

// usedEvery is how old what Used returns may be.
const usedEvery = 10 * time.Second

// Free is how many bytes are free on the shelf's disk, if the disk says so.
func (s *Shelf) Free() (n int64, known bool) {
	d, ok := s.disk.(interface {
		Free(dir string) (int64, error)
	})
	if !ok {
		return 0, false
	}
	n, err := d.Free(s.dir)
	return n, err == nil
}

// Used is how many bytes the logs and recordings have, as of a moment ago.
func (s *Shelf) Used() int64 {
	s.usedMu.Lock()
	defer s.usedMu.Unlock()
	if !s.usedAt.IsZero() && time.Since(s.usedAt) < usedEvery {
		return s.used
	}
	entries, err := s.disk.ReadDir(s.dir)
	if err != nil {
		return s.used
	}
	s.used, s.usedAt = 0, time.Now()
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			s.used += info.Size()
		}
	}
	return s.used
}

// FormatSize writes a number of bytes for people: "1.5 GiB".
func FormatSize(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, i := float64(n)/(1<<10), 0
	for v >= 1<<10 && i < len(units)-1 {
		v /= 1 << 10
		i++
	}
	return fmt.Sprintf("%.4g %ciB", v, units[i])
}
