package main

import (
	"context"
	"slices"
)

// The shop's account, and the customers, whose accounts are 1 to 20.
const (
	demoShopAccount = 100
	demoCustomers   = 20
)

// demoProducts are what the shop sells.
var demoProducts = []demoItem{
	{product: "pen", price: 190}, {product: "notebook", price: 450}, {product: "lamp", price: 3490}, {product: "desk", price: 18900},
	{product: "chair", price: 7950}, {product: "rug", price: 12000}, {product: "mug", price: 890}, {product: "clock", price: 2600},
}

// step makes one transaction: an order's next step, a new order, or a transfer
// between accounts.
func (w *demoWorker) step(ctx context.Context) error {
	n := w.rand.IntN(100)
	switch {
	case n < 10:
		return w.transfer(ctx)
	case n < 35 || len(w.orders) == 0:
		return w.place(ctx)
	}
	i := w.rand.IntN(len(w.orders))
	o := w.orders[i]
	var finished bool
	var err error
	switch {
	case n < 45:
		finished, err = w.cancel(ctx, o)
	case o.paid:
		finished, err = w.ship(ctx, o)
	case n < 60:
		err = w.addItem(ctx, o)
	case n < 70 && len(o.items) > 1:
		err = w.removeItem(ctx, o)
	default:
		err = w.pay(ctx, o)
	}
	if finished {
		w.orders = slices.Delete(w.orders, i, i+1)
	}
	return err
}

func (w *demoWorker) place(ctx context.Context) error {
	o := &demoOrder{customer: 1 + w.rand.Int64N(demoCustomers)}
	for range 1 + w.rand.IntN(3) {
		item := w.pick()
		o.items = append(o.items, item)
		o.total += item.price * item.qty
	}
	done, err := w.transact(ctx, func(tx *demoTx) (err error) {
		o.id, err = tx.insert(ctx, "INSERT INTO orders (customer, status, total) VALUES ($1, 'placed', $2)", o.customer, demoMoney(o.total))
		for i := range o.items {
			if err == nil {
				err = o.items[i].insert(ctx, tx, o.id)
			}
		}
		return err
	})
	if done {
		w.orders = append(w.orders, o)
	}
	return err
}

// pick chooses a product.
func (w *demoWorker) pick() demoItem {
	item := demoProducts[w.rand.IntN(len(demoProducts))]
	item.qty = 1 + w.rand.IntN(3)
	return item
}

func (i *demoItem) insert(ctx context.Context, tx *demoTx, order int64) (err error) {
	i.id, err = tx.insert(ctx, "INSERT INTO order_items (order_id, product, qty, price) VALUES ($1, $2, $3, $4)",
		order, i.product, i.qty, demoMoney(i.price))
	return err
}

func (w *demoWorker) addItem(ctx context.Context, o *demoOrder) error {
	item := w.pick()
	total := o.total + item.price*item.qty
	done, err := w.transact(ctx, func(tx *demoTx) error {
		if err := item.insert(ctx, tx, o.id); err != nil {
			return err
		}
		return setTotal(ctx, tx, o, total)
	})
	if done {
		o.items, o.total = append(o.items, item), total
	}
	return err
}

func (w *demoWorker) removeItem(ctx context.Context, o *demoOrder) error {
	last := len(o.items) - 1
	total := o.total - o.items[last].price*o.items[last].qty
	done, err := w.transact(ctx, func(tx *demoTx) error {
		if err := tx.exec(ctx, "DELETE FROM order_items WHERE id = $1", o.items[last].id); err != nil {
			return err
		}
		return setTotal(ctx, tx, o, total)
	})
	if done {
		o.items, o.total = o.items[:last], total
	}
	return err
}

func (w *demoWorker) pay(ctx context.Context, o *demoOrder) error {
	done, err := w.transact(ctx, func(tx *demoTx) error {
		if err := setStatus(ctx, tx, o, "paid"); err != nil {
			return err
		}
		return move(ctx, tx, o.customer, demoShopAccount, o.total)
	})
	o.paid = o.paid || done
	return err
}

func (w *demoWorker) ship(ctx context.Context, o *demoOrder) (bool, error) {
	return w.transact(ctx, func(tx *demoTx) error { return setStatus(ctx, tx, o, "shipped") })
}

// cancel removes the order's items and gives the money back.
func (w *demoWorker) cancel(ctx context.Context, o *demoOrder) (bool, error) {
	return w.transact(ctx, func(tx *demoTx) error {
		if err := tx.exec(ctx, "DELETE FROM order_items WHERE order_id = $1", o.id); err != nil {
			return err
		}
		if err := setStatus(ctx, tx, o, "cancelled"); err != nil || !o.paid {
			return err
		}
		return move(ctx, tx, demoShopAccount, o.customer, o.total)
	})
}

func (w *demoWorker) transfer(ctx context.Context) error {
	_, err := w.transact(ctx, func(tx *demoTx) error {
		from, to := 1+w.rand.Int64N(demoCustomers), 1+w.rand.Int64N(demoCustomers-1)
		if to >= from {
			to++
		}
		return move(ctx, tx, from, to, 100+w.rand.IntN(5000))
	})
	return err
}

func setStatus(ctx context.Context, tx *demoTx, o *demoOrder, status string) error {
	return tx.exec(ctx, "UPDATE orders SET status = $2 WHERE id = $1", o.id, status)
}

func setTotal(ctx context.Context, tx *demoTx, o *demoOrder, total int) error {
	return tx.exec(ctx, "UPDATE orders SET total = $2 WHERE id = $1", o.id, demoMoney(total))
}

// move moves money from one account to another. The lower number goes first,
// so that no two connections wait for each other.
func move(ctx context.Context, tx *demoTx, from, to int64, cents int) error {
	const sql = "UPDATE accounts SET balance = balance + $2 WHERE id = $1"
	give := func() error { return tx.exec(ctx, sql, from, "-"+demoMoney(cents)) }
	take := func() error { return tx.exec(ctx, sql, to, demoMoney(cents)) }
	if from > to {
		give, take = take, give
	}
	if err := give(); err != nil {
		return err
	}
	return take()
}
