package consumer

import "testing"

func TestChunkFollowsTheSizeOfEntries(t *testing.T) {
	c := newChunk()
	if n := c.count(8); n != firstCount {
		t.Errorf("at first %d", n)
	}
	for range 10 {
		c.saw(500, 500*300)
	}
	if n := c.count(8); n != maxCount {
		t.Errorf("small entries: %d", n)
	}
	if n := c.count(100); n*100*300 > chunkBudget || n*100*300 < chunkBudget*9/10 {
		t.Errorf("small entries of many partitions: %d", n)
	}
	c.saw(10, 10<<20)
	if n := c.count(2); n != 4 {
		t.Errorf("entries of 1 MiB: %d", n)
	}
	c.saw(1, 1<<30)
	if n := c.count(2); n != 1 {
		t.Errorf("entries of 1 GiB: %d", n)
	}
	c.saw(0, 0)
	c.saw(100, 100)
	for range 20 {
		c.failed()
	}
	if n := c.count(1); n != 1 {
		t.Errorf("after many failures: %d", n)
	}
	c.saw(1, 1)
	if n := c.count(1); n != 2 {
		t.Errorf("after a success: %d", n)
	}
}
