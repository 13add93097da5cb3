package record

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"outrigger.dev/api/gen/etcdcron"
)

// Counter is how far a job has come.
type Counter struct {
	// Partition is that of the job; a counter with another one belongs to a version that is gone.
	Partition uint64
	// Count is how many ticks are over.
	Count uint32
	// Last is the planned time of the last of them; zero when there was none.
	Last time.Time
	// Attempts is how often the tick that is not over was tried in vain.
	Attempts uint32
}

// Encode is the value under the counter's key.
func (c Counter) Encode() ([]byte, error) {
	stored := &etcdcron.StoredCounter{JobPartitionId: c.Partition, Count: c.Count, Attempts: c.Attempts}
	if !c.Last.IsZero() {
		stored.LastTrigger = timestamppb.New(c.Last)
	}
	value, err := proto.Marshal(stored)
	if err != nil {
		return nil, fmt.Errorf("the counter of a job cannot be encoded: %w", err)
	}
	return value, nil
}

// DecodeCounter reads the value under a counter's key.
func DecodeCounter(value []byte) (Counter, error) {
	stored := new(etcdcron.StoredCounter)
	if err := proto.Unmarshal(value, stored); err != nil {
		return Counter{}, fmt.Errorf("the stored counter cannot be read: %w", err)
	}
	c := Counter{Partition: stored.JobPartitionId, Count: stored.Count, Attempts: stored.Attempts}
	if t := stored.LastTrigger; t != nil {
		c.Last = t.AsTime()
	}
	return c, nil
}

// Member is one instance of the scheduler, as it shows itself to the others.
type Member struct {
	Total   uint64     // how many instances it knows of
	UID     uint64     // random, drawn at every start
	Replica *anypb.Any // a schedulerv1.Host
}

// Encode is the value under the instance's key.
func (m Member) Encode() ([]byte, error) {
	value, err := proto.Marshal(&etcdcron.StoredLeadership{Total: m.Total, Uid: m.UID, ReplicaData: m.Replica})
	if err != nil {
		return nil, fmt.Errorf("the entry of the scheduler instance cannot be encoded: %w", err)
	}
	return value, nil
}

// DecodeMember reads the value under an instance's key.
func DecodeMember(value []byte) (Member, error) {
	stored := new(etcdcron.StoredLeadership)
	if err := proto.Unmarshal(value, stored); err != nil {
		return Member{}, fmt.Errorf("the entry of a scheduler instance cannot be read: %w", err)
	}
	return Member{Total: stored.Total, UID: stored.Uid, Replica: stored.ReplicaData}, nil
}
