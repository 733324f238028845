-- What the scripts of chains use; the runner puts it behind common.lua.
--
-- A chain holds the messages of one group that must be handled in order. Its members are `<name>/<place>`, where the
-- place is 24 hexadecimal digits, so the lowest member is the head. Only the head is on its way: it waits in the
-- schedule, has left it, or is taken by a reader who handles it. The others are behind it, and their messages are here.
-- An entry is packed: {state, id, attempt, hold, at, token, envelope and stored form}.
--   'b'  behind; `at` is when it may be delivered at the earliest
--   's'  sent: its message is in the schedule, or has left it
--   't'  taken until `at` with `token`; its message is in the schedule and is due then
--   'h'  held: it has ended as a dead letter, and the chain waits until somebody releases it
-- `hold` is 1 if the chain is to be held when this member becomes a dead letter.
-- `heads` has the id of every member that is not behind.
--
-- `c` has the keys messages, leased, leases, limits, order, entries, heads; `now`; `needed`; and lane(reference), which
-- returns the keys of a lane, or nil if they are not at hand.
local function chains_of(c)
  local self = { at = nil, stored = 0, finished = 0 }

  local function name_of(member) return string.sub(member, 1, -26) end

  local function load(member)
    local packed = redis.call('HGET', c.entries, member)
    return packed and cmsgpack.unpack(packed)
  end

  -- `old` is the entry that this one replaces; nil if the member is new.
  local function save(member, entry, old)
    redis.call('HSET', c.entries, member, cmsgpack.pack(entry))
    if not old then redis.call('ZADD', c.order, 0, member) end
    if old and old[2] == entry[2] and (old[1] == 'b') == (entry[1] == 'b') then return end
    if entry[1] == 'b' then
      redis.call('HDEL', c.heads, entry[2])
    else
      redis.call('HSET', c.heads, entry[2], member)
    end
  end

  local function remove(member, entry)
    redis.call('ZREM', c.order, member)
    redis.call('HDEL', c.entries, member)
    redis.call('HDEL', c.heads, entry[2])
  end

  -- The lowest members of a chain, above `after` where it is given.
  local function lowest(name, count, after)
    local from = after and '(' .. after or '[' .. name .. '/'
    return redis.call('ZRANGEBYLEX', c.order, from, '(' .. name .. '0', 'LIMIT', 0, count)
  end

  -- Whether the keys of a message's lane are at hand.
  local function has_lane(message)
    if not message or c.lane(reference_of(message)) then return true end
    c.needed[#c.needed + 1] = reference_of(message)
    return false
  end

  local function in_schedule(id) return redis.call('HGET', c.messages, id) end

  -- Whether the keys are at hand that the message of a member behind needs to be scheduled: those of its lane, and those
  -- of the lane in which the schedule has its id already.
  local function may_schedule(entry)
    local own, old = has_lane(entry[7]), has_lane(in_schedule(entry[2]))
    return own and old
  end

  -- The member that follows when `leaving` has left its chain, and its entry; both are nil if there is none. The third
  -- value is false if the keys of its lanes are not at hand.
  local function next_of(name, leaving)
    local members = lowest(name, 2)
    local member = members[1]
    if member == leaving then member = members[2] end
    if not member then return nil, nil, true end
    local entry = load(member)
    return member, entry, entry[1] ~= 'b' or may_schedule(entry)
  end

  -- `message` is what the schedule has under this id.
  local function take_from_schedule(id, message)
    if not (redis.call('HDEL', c.leases, id) == 1 and redis.call('ZREM', c.leased, id) == 1) then
      redis.call('ZREM', c.lane(reference_of(message)), id)
    end
  end

  local function unschedule(id, message)
    if not message then return end
    take_from_schedule(id, message)
    redis.call('HDEL', c.messages, id)
    self.finished = self.finished + 1
  end

  -- `old` is what the schedule has under this id; false for nothing.
  local function schedule(id, message, due, old)
    if old then
      take_from_schedule(id, old)
    else
      self.stored = self.stored + 1
    end
    local reference = reference_of(message)
    local waiting, lanes = c.lane(reference)
    redis.call('HSET', c.messages, id, message)
    redis.call('ZADD', waiting, string.format('%.0f', due), id)
    local look = look_at(lanes, c.limits, string.sub(reference, 2), due)
    self.at = math.min(self.at or look, look)
  end

  -- Let the next member of a chain go on: a reader gets it, and those behind it, where he wants some; or it is
  -- delivered. Returns whether the chain has members, and what the reader gets.
  local function advance(name, first, entry, want, until_ms, token)
    if not first then return 0, {} end
    local is_mine = entry[1] == 't' and entry[6] == token and want > 0
    if entry[1] ~= 'b' and not is_mine then return 1, {} end
    if not is_mine then
      if want == 0 or entry[5] > c.now then
        schedule(entry[2], entry[7], math.max(c.now, entry[5]), in_schedule(entry[2]))
        save(first, { 's', entry[2], entry[3], entry[4], 0, '', '' }, entry)
        return 1, {}
      end
      schedule(entry[2], entry[7], until_ms, in_schedule(entry[2]))
      save(first, { 't', entry[2], entry[3], entry[4], until_ms, token, '' }, entry)
    end
    local message = is_mine and redis.call('HGET', c.messages, entry[2]) or entry[7]
    if not message or message == '' then return 1, {} end
    local taken, size = { entry[2], string.sub(first, -24), entry[3], stored_form(message) }, #message
    for _, member in ipairs(lowest(name, want - 1, first)) do
      entry = load(member)
      if entry[1] ~= 'b' or entry[5] > c.now then break end
      size = size + #entry[7]
      if size > 1000000 then break end
      taken[#taken + 1], taken[#taken + 2] = entry[2], string.sub(member, -24)
      taken[#taken + 1], taken[#taken + 2] = entry[3], stored_form(entry[7])
    end
    return 1, taken
  end

  -- A record has arrived. Returns 'taken' if it may be handled now, 'behind' if it is kept here, 'dropped' if it is a
  -- copy of one that is on its way; nil if a lane's keys are missing.
  function self.arrive(name, place, attempt, hold, id, due, message, until_ms, token)
    local member = name .. '/' .. place
    local first = lowest(name, 1)[1]
    local entry = first and load(member)
    if entry then
      if entry[3] > attempt or entry[1] == 'h' then return 'dropped' end
      if entry[1] == 't' and entry[3] == attempt and entry[5] > c.now and entry[6] ~= token then
        -- It was delivered before its reader's time was over. If the reader is lost, the schedule delivers it again.
        if not in_schedule(entry[2]) then schedule(entry[2], message, entry[5], false) end
        return 'dropped'
      end
    end
    local scheduled, replaced = in_schedule(id), false
    if not has_lane(scheduled) then return nil end
    if entry and entry[2] ~= id and entry[1] ~= 'b' then
      replaced = in_schedule(entry[2])
      if not has_lane(replaced) then return nil end
      unschedule(entry[2], replaced)
      redis.call('HDEL', c.heads, entry[2])
    end
    if first and first < member then
      if entry and entry[2] == id and entry[1] ~= 'b' then unschedule(id, scheduled) end
      save(member, { 'b', id, attempt, hold, due, '', message }, entry)
      return 'behind'
    end
    schedule(id, message, until_ms, scheduled)
    save(member, { 't', id, attempt, hold, until_ms, token, '' }, entry)
    return 'taken'
  end

  -- An attempt has failed, and the message waits for the next one. Returns 'waits', 'behind', 'dropped', or nil.
  function self.wait(name, place, attempt, hold, id, due, message)
    local member = name .. '/' .. place
    local first = lowest(name, 1)[1]
    local entry = first and load(member)
    if entry and (entry[3] >= attempt or entry[1] == 'h') then return 'dropped' end
    local scheduled = in_schedule(id)
    if not has_lane(scheduled) then return nil end
    if entry and entry[1] ~= 'b' and entry[2] ~= id then
      local replaced = in_schedule(entry[2])
      if not has_lane(replaced) then return nil end
      unschedule(entry[2], replaced)
      redis.call('HDEL', c.heads, entry[2])
    end
    if first and first < member then
      if entry and entry[2] == id and entry[1] ~= 'b' then unschedule(id, scheduled) end
      save(member, { 'b', id, attempt, hold, due, '', message }, entry)
      return 'behind'
    end
    schedule(id, message, due, scheduled)
    save(member, { 's', id, attempt, hold, 0, '', '' }, entry)
    return 'waits'
  end

  -- A member has ended: it was handled, or it is a dead letter, whose message is stored here where it is given. The
  -- chain is held then if `hold` is 1. Returns nil if a lane's keys are missing; or whether the chain has members, and
  -- what the reader gets.
  function self.finish(name, place, attempt, hold, id, due, message, want, until_ms, token)
    local member = name .. '/' .. place
    local entry = load(member)
    local is_ended = entry and entry[3] <= attempt and entry[1] ~= 'h'
    local following, its_entry, can_go_on = next_of(name, is_ended and member)
    if not can_go_on then return nil end
    local scheduled = is_ended and entry[1] ~= 'b' and in_schedule(entry[2])
    if not has_lane(scheduled) then return nil end
    if message ~= '' then
      local old = in_schedule(id)
      if not has_lane(old) then return nil end
      schedule(id, message, due, old)
    end
    if is_ended then
      unschedule(entry[2], scheduled)
      remove(member, entry)
    end
    if hold == 1 and (is_ended or not entry) then
      local held = { 'h', entry and entry[2] or id, attempt, 1, 0, '', '' }
      save(member, held)
      -- It is the head, unless a lower one has come back meanwhile.
      if not following or member < following then return 1, {} end
    end
    return advance(name, following, its_entry, want, until_ms, token)
  end

  -- The reader who has taken a member still works at it. Returns whether it is still his; nil if keys are missing.
  function self.renew(name, place, attempt, until_ms)
    local member = name .. '/' .. place
    local entry = load(member)
    if not entry or entry[1] ~= 't' or entry[3] ~= attempt then return 0 end
    local message = in_schedule(entry[2])
    if not message then return 0 end
    if not has_lane(message) then return nil end
    schedule(entry[2], message, until_ms, message)
    entry[5] = until_ms
    save(member, entry, entry)
    return 1
  end

  -- A message has left the schedule otherwise: it was removed, or is a dead letter. Its chain goes on, or is held.
  -- Returns false, and changes nothing, if a lane's keys are missing.
  function self.left(id, is_dead)
    local member = redis.call('HGET', c.heads, id)
    local entry = member and load(member)
    if not entry or entry[1] == 'h' then return true end
    local name = name_of(member)
    local following, its_entry, can_go_on = next_of(name, member)
    if not can_go_on then return false end
    if is_dead and entry[4] == 1 then
      save(member, { 'h', id, entry[3], 1, 0, '', '' }, entry)
    else
      remove(member, entry)
      advance(name, following, its_entry, 0)
    end
    return true
  end

  -- Let a chain go on without its head. Returns how many members it had, or nil if a lane's keys are missing.
  function self.release(name)
    local first = lowest(name, 1)[1]
    if not first then return 0 end
    local entry = load(first)
    -- A head that is behind nothing is not on its way: it is what goes on.
    local following, its_entry, can_go_on = next_of(name, entry[1] ~= 'b' and first)
    if not can_go_on then return nil end
    local count = redis.call('ZLEXCOUNT', c.order, '[' .. name .. '/', '(' .. name .. '0')
    if entry[1] ~= 'b' then remove(first, entry) end
    advance(name, following, its_entry, 0)
    return count
  end

  -- Let at most 100 members of a chain be delivered at once. Returns how many, or nil if a lane's keys are missing.
  function self.break_up(name)
    local members, entries, can_all = lowest(name, 100), {}, true
    for i, member in ipairs(members) do
      entries[i] = load(member)
      if entries[i][1] == 'b' and not may_schedule(entries[i]) then can_all = false end
    end
    if not can_all then return nil end
    local count = 0
    for i, member in ipairs(members) do
      local entry = entries[i]
      if entry[1] == 'b' then
        schedule(entry[2], entry[7], math.max(c.now, entry[5]), in_schedule(entry[2]))
        count = count + 1
      end
      remove(member, entry)
    end
    return count
  end

  return self
end
