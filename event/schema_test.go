package event

import "testing"

func TestSchemaOfATypeAndOfRows(t *testing.T) {
	rows := Schema{Stream: "orders", Table: "public.orders", Version: 2}
	tests := map[string]struct {
		schema Schema
		field  string
		shares bool
	}{
		"the same rows":                    {rows, "orders/public.orders/2", true},
		"another table":                    {Schema{Stream: "orders", Table: "public.items"}, "orders/public.items/0", false},
		"another stream":                   {Schema{Stream: "o", Table: "public.orders"}, "o/public.orders/0", false},
		"a type":                           {Schema{Stream: "orders", Type: "order.paid", Table: "public.orders", Version: 1}, "orders/order.paid/1", false},
		"a type that is called as rows":    {Schema{Stream: "orders", Type: "orders.created", Table: "public.orders"}, "orders/orders.created/0", true},
		"such a type of another table":     {Schema{Stream: "orders", Type: "orders.created", Table: "public.items"}, "orders/orders.created/0", false},
		"a type that is called as a table": {Schema{Stream: "orders", Type: "public.orders", Table: "public.items"}, "orders/public.orders/0", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := test.schema.Field(); got != test.field {
				t.Errorf("field %s, want %s", got, test.field)
			}
			if got, back := rows.SharesNumbers(&test.schema), test.schema.SharesNumbers(&rows); got != test.shares || back != test.shares {
				t.Errorf("shares numbers: %v, %v, want %v", got, back, test.shares)
			}
		})
	}
}
