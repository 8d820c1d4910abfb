package transform

import (
	"bytes"
	"errors"
	"strconv"
)

// appendNumber appends a float or numeric. JSON has no NaN and no infinities:
// they are strings, as in to_jsonb.
func appendNumber(dst, text []byte) ([]byte, error) {
	if len(text) == 0 {
		return dst, errors.New("empty number")
	}
	if notFinite(text) {
		return appendString(dst, text), nil
	}
	return appendDecimal(dst, text), nil
}

// notFinite reports NaN and the infinities, as Postgres prints them.
func notFinite(number []byte) bool {
	return len(number) > 0 && (isLetter(number[0]) || number[0] == '-' && len(number) > 1 && isLetter(number[1]))
}

func isLetter(c byte) bool { return c > '9' }

// maxExponent bounds how far an exponent is written out. Every float8 is within. A
// json column may hold more, and 1e100000 need not fill memory with zeros to stay the same number.
const maxExponent = 400

// appendDecimal appends a number with its exponent written out and without
// the sign of a negative zero, as jsonb prints it.
func appendDecimal(dst, num []byte) []byte {
	mantissa, exp := num, 0
	if i := exponentAt(num); i >= 0 {
		var err error
		mantissa = num[:i]
		exp, err = strconv.Atoi(string(num[i+1:]))
		if err != nil || exp > maxExponent || exp < -maxExponent {
			return append(dst, num...)
		}
	} else if !bytes.HasPrefix(num, []byte("-0")) {
		return append(dst, num...)
	}
	unsigned := bytes.TrimPrefix(mantissa, []byte("-"))
	if len(unsigned) < len(mantissa) && bytes.ContainsAny(unsigned, "123456789") {
		dst = append(dst, '-')
	}
	whole, fraction, _ := bytes.Cut(unsigned, []byte("."))
	return appendShifted(dst, whole, fraction, exp)
}

// exponentAt is the index of the number's e or E, or -1.
func exponentAt(num []byte) int {
	for i, c := range num {
		if c|0x20 == 'e' {
			return i
		}
	}
	return -1
}

// appendShifted appends whole.fraction times ten to the power of exp,
// with as many decimals as Postgres's numeric keeps of it.
func appendShifted(dst, whole, fraction []byte, exp int) []byte {
	digit := func(i int) byte {
		switch {
		case i < 0 || i >= len(whole)+len(fraction):
			return '0'
		case i < len(whole):
			return whole[i]
		}
		return fraction[i-len(whole)]
	}
	point := len(whole) + exp // digits before it are the whole part
	first := 0
	for first < point && digit(first) == '0' {
		first++
	}
	if first >= point {
		dst = append(dst, '0')
	}
	for i := first; i < point; i++ {
		dst = append(dst, digit(i))
	}
	if end := len(whole) + len(fraction); point < end {
		dst = append(dst, '.')
		for i := point; i < end; i++ {
			dst = append(dst, digit(i))
		}
	}
	return dst
}
