"""The Model Context Protocol as data: messages decoded only as far as a gateway must look into them."""
