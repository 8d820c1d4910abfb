package transform

import (
	"bytes"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// A decimal is an exact number as Postgres prints numeric: an optional minus,
// digits, and perhaps a point with digits behind it. It has no exponent.

// compareDecimals compares two decimals by value: 1.50 and 1.5 are the same.
func compareDecimals(a, b []byte) int {
	negA, wholeA, fracA := splitDecimal(a)
	negB, wholeB, fracB := splitDecimal(b)
	if negA != negB {
		if negA {
			return -1
		}
		return 1
	}
	c := len(wholeA) - len(wholeB)
	if c == 0 {
		c = bytes.Compare(wholeA, wholeB)
	}
	if c == 0 {
		c = bytes.Compare(fracA, fracB)
	}
	c = min(max(c, -1), 1)
	if negA {
		return -c
	}
	return c
}

// splitDecimal gives the digits that count before and behind the point. Zero is not negative.
func splitDecimal(d []byte) (negative bool, whole, fraction []byte) {
	if len(d) > 0 && d[0] == '-' {
		negative, d = true, d[1:]
	}
	if i := bytes.IndexByte(d, '.'); i >= 0 {
		whole, fraction = d[:i], d[i+1:]
	} else {
		whole = d
	}
	for len(whole) > 0 && whole[0] == '0' {
		whole = whole[1:]
	}
	for len(fraction) > 0 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return negative && len(whole)+len(fraction) > 0, whole, fraction
}

// appendSum appends a+b, or a-b, with as many decimals as the operand that has more.
func appendSum(dst, a, b []byte, minus bool) []byte {
	x, scaleX, okX := smallDecimal(a)
	y, scaleY, okY := smallDecimal(b)
	if minus {
		y = -y
	}
	scale := max(scaleX, scaleY)
	x, fitsX := scaled(x, scale-scaleX)
	y, fitsY := scaled(y, scale-scaleY)
	if sum := x + y; okX && okY && fitsX && fitsY && (sum > x) == (y > 0) {
		return appendScaledInt(dst, sum, scale)
	}
	bigA, scaleA := bigDecimal(a)
	bigB, scaleB := bigDecimal(b)
	scale = max(scaleA, scaleB)
	bigA.Mul(bigA, bigPower(scale-scaleA))
	bigB.Mul(bigB, bigPower(scale-scaleB))
	if minus {
		bigB.Neg(bigB)
	}
	return appendScaled(dst, bigA.Add(bigA, bigB).Append(nil, 10), scale)
}

// appendProduct appends a*b, with the decimals of both.
func appendProduct(dst, a, b []byte) []byte {
	x, scaleX, okX := smallDecimal(a)
	y, scaleY, okY := smallDecimal(b)
	if product, fits := multiply(x, y); okX && okY && fits {
		return appendScaledInt(dst, product, scaleX+scaleY)
	}
	bigA, scaleA := bigDecimal(a)
	bigB, scaleB := bigDecimal(b)
	return appendScaled(dst, bigA.Mul(bigA, bigB).Append(nil, 10), scaleA+scaleB)
}

// smallDecimal reads a decimal without its point when that fits.
func smallDecimal(d []byte) (coefficient int64, scale int, ok bool) {
	if len(d) > 18 {
		return 0, 0, false
	}
	negative := false
	for i, c := range d {
		switch {
		case c == '-':
			negative = true
		case c == '.':
			scale = len(d) - i - 1
		default:
			coefficient = coefficient*10 + int64(c-'0')
		}
	}
	if negative {
		coefficient = -coefficient
	}
	return coefficient, scale, true
}

func scaled(x int64, by int) (int64, bool) {
	ok := true
	for ; by > 0 && ok; by-- {
		x, ok = multiply(x, 10)
	}
	return x, ok
}

// multiply reports false when the product does not fit.
func multiply(x, y int64) (int64, bool) {
	hi, lo := bits.Mul64(magnitude(x), magnitude(y))
	if hi != 0 || lo > 1<<63-1 {
		return 0, false
	}
	if (x < 0) != (y < 0) {
		return -int64(lo), true
	}
	return int64(lo), true
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return uint64(-x)
	}
	return uint64(x)
}

func bigDecimal(d []byte) (*big.Int, int) {
	scale := 0
	if i := bytes.IndexByte(d, '.'); i >= 0 {
		scale = len(d) - i - 1
	}
	n, ok := new(big.Int).SetString(strings.Replace(string(d), ".", "", 1), 10)
	if !ok {
		return new(big.Int), 0 // not reached: Postgres and the parser print digits
	}
	return n, scale
}

func bigPower(n int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}

func appendScaledInt(dst []byte, coefficient int64, scale int) []byte {
	var digits [20]byte
	return appendScaled(dst, strconv.AppendInt(digits[:0], coefficient, 10), scale)
}

// appendScaled appends an integer's digits with a point before the last scale of them.
func appendScaled(dst, digits []byte, scale int) []byte {
	if digits[0] == '-' {
		dst, digits = append(dst, '-'), digits[1:]
	}
	if scale == 0 {
		return append(dst, digits...)
	}
	if len(digits) <= scale {
		dst = append(dst, '0', '.')
		for range scale - len(digits) {
			dst = append(dst, '0')
		}
		return append(dst, digits...)
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	dst = append(dst, '.')
	return append(dst, digits[len(digits)-scale:]...)
}

// decimalLiteral is the decimal of a number written in an expression.
func decimalLiteral(f float64) []byte { return strconv.AppendFloat(nil, f, 'f', -1, 64) }
