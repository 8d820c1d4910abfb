package harness

import (
	"math/rand/v2"
	"time"
)

// lane is the control of one direction of a Proxy, under the proxy's lock.
type lane struct {
	stalled bool
	writing int      // bytes admitted and not yet accounted for
	cut     *cutPlan // nil when none is armed
	passed  int64
	rate    int       // bytes per second, 0 without limit
	free    time.Time // when the rate lets the next bytes pass
}

// cutPlan is one cut to come.
type cutPlan struct {
	left    int64 // bytes that may still be admitted
	writing int   // of those admitted, bytes not yet accounted for
}

// Stall stops the bytes of the given directions, of both when none is given.
// Connections stay open and new ones are taken. When it returns nothing moves.
func (p *Proxy) Stall(dirs ...Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, dir := range orBoth(dirs) {
		p.lanes[dir].stalled = true
		for p.lanes[dir].writing > 0 && p.lanes[dir].stalled {
			p.interruptAll(dir, true)
			p.changed.Wait()
		}
		p.interruptAll(dir, false)
	}
}

// interruptAll makes the writes of a direction that are in progress return.
func (p *Proxy) interruptAll(dir Direction, yes bool) {
	for c := range p.pairs {
		_, dst := c.ends(dir)
		interrupt(dst, yes)
	}
}

// Resume lets the bytes of the given directions, of both when none is given,
// move again.
func (p *Proxy) Resume(dirs ...Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, dir := range orBoth(dirs) {
		p.lanes[dir].stalled = false
	}
	p.changed.Broadcast()
}

func orBoth(dirs []Direction) []Direction {
	if len(dirs) == 0 {
		return []Direction{ToServer, ToClient}
	}
	return dirs
}

// CutAfter lets exactly n more bytes pass in a direction and then cuts the
// connection that carried the last of them: its peers get what has passed, then
// an end of file (or a reset, when they have sent more). With n = 0 it is the
// connection that first tries to send. It happens once; a later call replaces an
// earlier one, and CutNever forgets it.
func (p *Proxy) CutAfter(dir Direction, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.random = nil
	p.lanes[dir].cut = &cutPlan{left: n}
}

// CutNever takes back CutAfter and CutRandomly.
func (p *Proxy) CutNever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.random = nil
	p.drawCut()
}

// randomCuts draws the next cut after each one.
type randomCuts struct {
	rand      *rand.Rand
	low, high int64
}

// CutRandomly cuts a connection again and again, each time in a direction and
// after a number of bytes in [low, high) that the seed decides, until CutNever
// or CutAfter.
func (p *Proxy) CutRandomly(seed uint64, low, high int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.random = &randomCuts{rand.New(rand.NewPCG(seed, 0)), low, high}
	p.drawCut()
}

// drawCut replaces the cuts that are armed by the next random one, if any.
func (p *Proxy) drawCut() {
	for i := range p.lanes {
		p.lanes[i].cut = nil
	}
	if r := p.random; r != nil {
		n := r.low + r.rand.Int64N(max(r.high-r.low, 1))
		p.lanes[r.rand.IntN(2)].cut = &cutPlan{left: n}
	}
}

// Rate limits a direction to so many bytes per second; 0 takes the limit away.
func (p *Proxy) Rate(dir Direction, bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lanes[dir].rate, p.lanes[dir].free = bytesPerSecond, time.Time{}
	p.changed.Broadcast()
}

// admit waits until a direction lets bytes of this pair pass and returns how
// many of the want bytes may. They count as passed from now on, and account must
// be told, with the plan that is returned, how many were written.
func (p *Proxy) admit(c *pair, dir Direction, want int) (int, *cutPlan, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &p.lanes[dir]
	for !c.ended {
		switch {
		case l.stalled:
			p.changed.Wait()
		case l.cut != nil && l.cut.left == 0 && l.cut.writing > 0:
			p.changed.Wait() // for another writer, which gets to the cut or gives bytes back
		case l.cut != nil && l.cut.left == 0:
			p.cutNow(c, l)
		case l.rate > 0 && time.Now().Before(l.free):
			p.waitUntil(l.free)
		default:
			return l.take(want), l.cut, nil
		}
	}
	return 0, nil, errCut
}

// take counts up to want bytes as passed.
func (l *lane) take(want int) int {
	n := want
	if l.rate > 0 {
		n = min(n, max(l.rate/100, 1)) // a hundredth of a second at a time
	}
	if l.cut != nil {
		n = int(min(int64(n), l.cut.left))
		l.cut.left -= int64(n)
		l.cut.writing += n
	}
	if l.rate > 0 {
		l.free = time.Now().Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	}
	l.passed += int64(n)
	l.writing += n
	return n
}

// waitUntil waits for the time t, or for any change before it.
func (p *Proxy) waitUntil(t time.Time) {
	timer := time.AfterFunc(time.Until(t), p.changed.Broadcast)
	defer timer.Stop()
	p.changed.Wait()
}

// account gives back those of n admitted bytes that were not written, and cuts
// the pair when it wrote the last byte of the plan. A plan that was replaced
// meanwhile is of no account.
func (p *Proxy) account(c *pair, dir Direction, plan *cutPlan, n, written int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &p.lanes[dir]
	l.writing -= n
	l.passed -= int64(n - written)
	if plan != nil {
		plan.writing -= n
		plan.left += int64(n - written)
	}
	if plan != nil && plan == l.cut && plan.left == 0 && plan.writing == 0 {
		p.cutNow(c, l)
	}
	p.changed.Broadcast()
}

// cutNow ends the pair at a byte that was asked for and draws the next cut, if any.
func (p *Proxy) cutNow(c *pair, l *lane) {
	l.cut = nil
	if p.random != nil {
		p.drawCut()
	}
	if !c.ended {
		p.cuts++
		p.end(c, hangUp)
	}
}
