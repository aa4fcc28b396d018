package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// quota is how large the database of one server may become. Beyond it the journal
// takes no writes: etcd says so with an alarm that stays until somebody ends it.
const quota = 8 << 30

// An Upkeep does for the journal what etcd does not do by itself. Compaction frees
// pages of its servers' files and never makes those smaller, and without room for
// more the journal takes no writes until it is told that there is some again. So
// the node of the leader gives the files back what is free, one at a time, and makes
// room. And one node a day removes chunks that nothing names.
type Upkeep struct {
	journal *Journal
	members *Members // nil where the servers are not ours
	log     *slog.Logger

	every, sweepEvery time.Duration
	smallest          int64                // a file that is not worth the time
	tried, trouble    map[uint64]time.Time // when a file was rewritten, and when that failed
	looked            time.Time            // when it last looked for entries to remove
	told              bool                 // every head says since when its entries are there
	said              string
}

// NewUpkeep returns the upkeep as a node does it.
func NewUpkeep(j *Journal, m *Members, log *slog.Logger) *Upkeep {
	return &Upkeep{journal: j, members: m, log: log, every: time.Minute, sweepEvery: sweepEvery, smallest: 128 << 20, tried: map[uint64]time.Time{}, trouble: map[uint64]time.Time{}}
}

const (
	// defragmentPatience bounds the rewriting of one file, for which its server
	// answers nobody. It takes some seconds for a GiB.
	defragmentPatience = 10 * time.Minute
	// troubleFor is how long a server is left alone of which the file could not be
	// rewritten: that needs room for a copy.
	troubleFor = time.Hour
	// triedFor is how often the file of a full server is rewritten in vain.
	triedFor = 10 * time.Minute
)

// Run does the upkeep until the context ends.
func (u *Upkeep) Run(ctx context.Context) {
	for wait := time.Duration(0); pause(ctx, wait) == nil; wait = u.every {
		if err := u.once(ctx); err != nil && ctx.Err() == nil && err.Error() != u.said {
			u.said = err.Error()
			u.log.Warn("upkeep of the journal", "error", err)
		} else if err == nil {
			u.said = ""
		}
	}
}

func (u *Upkeep) once(ctx context.Context) error {
	var err error
	if u.members != nil && u.members.leads() {
		err = u.space(ctx)
	} else {
		u.told = false // another may have died in the middle of it
	}
	removed, sweepErr := u.journal.Sweep(ctx, u.sweepEvery)
	if removed > 0 {
		u.log.Info("removed chunks that no entry names", "chunks", removed)
	}
	return errors.Join(err, sweepErr)
}

// A database is the file of one server.
type database struct {
	member *etcdserverpb.Member
	leader bool
	full   bool  // it says that the journal is full, because of its own or another's
	size   int64 // of the file
	used   int64
	quota  int64
}

// near is the part of its quota above which a file must shrink before the alarm may
// end: it would come again at once.
func (d database) near() bool { return d.size > d.quota/10*9 }

// space makes room where an alarm asks for it, keeps it from being needed, and has at
// most one file rewritten of which half is free.
func (u *Upkeep) space(ctx context.Context) error {
	all, down, err := u.databases(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(d database) bool { return d.full }) {
		return u.makeRoom(ctx)
	}
	if err := u.tell(ctx); err != nil {
		return err
	}
	if time.Since(u.looked) > trimmedFor {
		if _, err := u.trim(ctx, all, false); err != nil {
			return err
		}
	}
	for _, d := range all {
		switch {
		case d.size < u.smallest || d.used > d.size/2 || time.Since(u.trouble[d.member.ID]) < troubleFor:
		case d.leader && down > 0:
			// While it is at work it does not apply what the others agree on; that
			// these can do without it should be sure.
		default:
			return u.defragment(ctx, d)
		}
	}
	return nil
}

// databases looks at all servers' files, the leader's last, and says how many
// servers gave no answer.
func (u *Upkeep) databases(ctx context.Context) (all []database, down int, err error) {
	short, cancel := context.WithTimeout(ctx, callTimeout)
	list, err := u.members.client.MemberList(short)
	cancel()
	if err != nil {
		return nil, 0, unavailable(err)
	}
	for _, member := range list.Members {
		d := database{member: member}
		if len(member.ClientURLs) == 0 {
			down++
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		s, err := u.members.status(attempt, member.ClientURLs[0])
		cancel()
		if err != nil {
			down++
			continue
		}
		d.leader, d.full = s.Leader == member.ID, len(full(s)) > 0
		d.size, d.used, d.quota = s.DbSize, s.DbSizeInUse, cmp.Or(s.DbSizeQuota, quota)
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b database) int {
		switch {
		case a.leader == b.leader:
			return 0
		case a.leader:
			return 1
		}
		return -1
	})
	return all, down, nil
}

// full returns the servers that have raised the alarm, as another knows it. Its
// answer has that in words only.
func full(s *clientv3.StatusResponse) (members []uint64) {
	for _, text := range s.Errors {
		var id uint64
		if n, _ := fmt.Sscanf(text, "memberID:%d alarm:NOSPACE", &id); n == 1 {
			members = append(members, id)
		}
	}
	return members
}

// makeRoom frees what is no longer needed, has the files shrink that are near the
// quota, and ends the alarm if none is after that. If that is not enough, old entries
// go as well. Nothing is written meanwhile, so the leader takes its turn whoever else
// is down.
func (u *Upkeep) makeRoom(ctx context.Context) error {
	full := u.shrink(ctx)
	if errors.Is(full, errFull) {
		all, _, err := u.databases(ctx)
		if err != nil {
			return err
		}
		u.told = false // nothing but what removes is let through now
		removed, err := u.trim(ctx, all, true)
		if err != nil {
			return err
		}
		if removed > 0 {
			clear(u.tried)
			full = u.shrink(ctx)
		}
	}
	if full != nil {
		return full
	}
	alarms, err := u.members.client.AlarmList(ctx)
	if err != nil {
		return unavailable(err)
	}
	for _, alarm := range alarms.Alarms {
		if alarm.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := u.members.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: alarm.MemberID, Alarm: alarm.Alarm}); err != nil {
			return unavailable(err)
		}
	}
	u.log.Warn("the journal was full, and takes writes again")
	return u.tell(ctx)
}

// errFull: what the journal holds leaves no room.
var errFull = errors.New("the journal is full")

// shrink frees what was and is no more, and has the files rewritten that are near the
// quota.
func (u *Upkeep) shrink(ctx context.Context) error {
	if err := u.compact(ctx); err != nil {
		return err
	}
	all, _, err := u.databases(ctx)
	if err != nil {
		return err
	}
	for i, d := range all {
		if !d.near() {
			continue
		}
		// What is free may not be counted yet: that is done with the next write. So
		// a file that seems to be in use is rewritten as well, though not each time.
		if d.used <= d.quota/20*17 || time.Since(u.tried[d.member.ID]) > triedFor {
			if err := u.defragment(ctx, d); err != nil {
				return err
			}
			attempt, cancel := context.WithTimeout(ctx, callTimeout)
			s, err := u.members.status(attempt, d.member.ClientURLs[0])
			cancel()
			if err != nil {
				return unavailable(err)
			}
			all[i].size = s.DbSize
		}
		if all[i].near() {
			return fmt.Errorf("%w: what it holds takes %d MiB of the %d MiB it may have on %q", errFull, d.used>>20, d.quota>>20, d.member.Name)
		}
	}
	return nil
}

// compact has the servers forget what was, and free its pages.
func (u *Upkeep) compact(ctx context.Context) error {
	now, err := u.journal.get(ctx, keyCluster, clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	long, cancel := context.WithTimeout(ctx, defragmentPatience)
	defer cancel()
	if _, err := u.members.client.Compact(long, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return unavailable(err)
	}
	return nil
}

// defragment has one server rewrite its file.
func (u *Upkeep) defragment(ctx context.Context, d database) error {
	ctx, cancel := context.WithTimeout(ctx, defragmentPatience)
	defer cancel()
	client, err := Dial(d.member.ClientURLs, u.members.tls)
	if err != nil {
		return err
	}
	defer client.Close()
	start := time.Now()
	u.tried[d.member.ID] = start
	if _, err := client.Defragment(ctx, d.member.ClientURLs[0]); err != nil {
		u.trouble[d.member.ID] = time.Now()
		return fmt.Errorf("rewrite the file of the journal's server %q: %w", d.member.Name, err)
	}
	u.log.Info("rewrote the file of a journal's server", "name", d.member.Name, "bytes", d.size, "used", d.used, "took", time.Since(start).Round(time.Millisecond))
	return nil
}
