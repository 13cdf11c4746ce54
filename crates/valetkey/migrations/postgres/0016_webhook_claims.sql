-- A delivery that is claimed has no time at which it is tried next: the clocks of replicas differ. A replica takes a claim back that
-- it saw unchanged for as long as one lives, and finds those that there are by this.
CREATE INDEX webhook_deliveries_claimed ON webhook_deliveries (site, webhook, message)
    WHERE status = 'pending' AND next_at IS NULL;
