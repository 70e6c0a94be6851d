package limits

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestConnectionsBeyondTheLimitAreRefusedUntilOneEnds(t *testing.T) {
	account := NewAccount()
	two := int64(2)
	if err := account.Set(Limits{Connections: &two}); err != nil {
		t.Fatal(err)
	}
	if account.Begin() != "" || account.Begin() != "" {
		t.Fatal("two connections were allowed, and not both given")
	}
	if reason := account.Begin(); reason != ReasonConnections {
		t.Errorf("the third got %q", reason)
	}
	account.End()
	if reason := account.Begin(); reason != "" {
		t.Errorf("a freed slot was refused: %q", reason)
	}
}

func TestConnectionsMadeTooFastAreRefused(t *testing.T) {
	account := NewAccount()
	three := int64(3)
	_ = account.Set(Limits{NewConnectionsPerSecond: &three})
	given := 0
	for range 100 {
		if account.Begin() == "" {
			given++
			account.End()
		}
	}
	if given < 6 || given > 8 {
		t.Errorf("%d connections at once were given of 3 a second", given)
	}
	if reason := account.Begin(); reason != ReasonConnectionRate {
		t.Errorf("the reason is %q", reason)
	}
	if account.Open() != 0 {
		t.Errorf("%d slots are held by refused connections", account.Open())
	}
}

func TestZeroQueriesASecondMeansNone(t *testing.T) {
	account := NewAccount()
	zero := int64(0)
	_ = account.Set(Limits{QueriesPerSecond: &zero})
	if account.Query() {
		t.Error("a query was let through")
	}
	_ = account.Set(Limits{})
	if !account.Query() {
		t.Error("the default lets no query through")
	}
}

func TestBandwidthIsUnlimitedUnlessSet(t *testing.T) {
	account := NewAccount()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := account.WaitOut(ctx, 1<<30); err != nil {
		t.Error(err)
	}
	slow := int64(1)
	_ = account.Set(Limits{BytesPerSecondOut: &slow})
	if err := account.WaitOut(ctx, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting under a limit ended with %v", err)
	}
	if err := account.WaitIn(ctx, 1<<30); err != nil {
		t.Errorf("the other way is limited too: %v", err)
	}
}

func TestImpossibleLimitsAreRefusedWithASentenceAndKeepTheOldOnes(t *testing.T) {
	account := NewAccount()
	one, minus := int64(1), int64(-5)
	_ = account.Set(Limits{Connections: &one})
	err := account.Set(Limits{BytesPerSecondIn: &minus})
	if err == nil || !strings.Contains(err.Error(), "bytesPerSecondIn is -5") {
		t.Errorf("the error is %v", err)
	}
	_ = account.Begin()
	if account.Begin() != ReasonConnections {
		t.Error("the old limit is gone")
	}
}
