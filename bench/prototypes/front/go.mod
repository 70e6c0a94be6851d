module rekindle/bench/prototypes/front

go 1.26
