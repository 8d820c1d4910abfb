package main

import (
	"encoding/json"
	"fmt"
	"math/big"

	"github.com/walrill/walrill/event"
)

// demoPurse watches the money in all accounts. Within a transaction it is on
// its way; at the end of each it must all be there.
type demoPurse struct {
	from uint64 // commits from here on only move money
	want string // how much there is then

	sum          big.Rat
	commit       uint64 // of the transaction at hand
	transactions int    // from `from` on
	problems     []string
}

// move takes an event of the transaction with a commit; the rows are an
// account's before and after it, nil for none.
func (p *demoPurse) move(commit uint64, before, after demoRow) {
	if commit != p.commit {
		p.close()
		p.commit = commit
	}
	p.add(after, 1)
	p.add(before, -1)
}

func (p *demoPurse) add(account demoRow, sign int64) {
	if account == nil {
		return
	}
	var balance big.Rat
	number, _ := account["balance"].(json.Number)
	if _, ok := balance.SetString(number.String()); !ok {
		p.problems = append(p.problems, fmt.Sprintf("account %v has no balance: %v", account["id"], account))
		return
	}
	p.sum.Add(&p.sum, balance.Mul(&balance, big.NewRat(sign, 1)))
}

// close ends the transaction at hand.
func (p *demoPurse) close() {
	if p.commit < p.from || p.commit == 0 {
		return
	}
	p.transactions++
	if sum := p.sum.FloatString(2); sum != p.want {
		at := event.Position{Commit: p.commit}
		p.problems = append(p.problems, fmt.Sprintf("%s in all accounts after the transaction %v, not %s", sum, at, p.want))
	}
}
