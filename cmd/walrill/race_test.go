//go:build race

package main

// raceDetector makes a program use several times the memory.
const raceDetector = true
